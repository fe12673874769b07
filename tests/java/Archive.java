/**
 * Does once what the other programs do, so that a JVM that archives its classes when it ends has those that they need.
 *
 * <pre>
 * Archive BROKERS TOPIC
 * </pre>
 */
public final class Archive {
    public static void main(String[] args) throws Exception {
        Topics.main(new String[] {args[0], "create", args[1], "1"});
        Load.main(new String[] {args[0], args[1], "2", "1", "--transactional"});
        Dump.main(new String[] {args[0], args[1], "--json"});
        Topics.main(new String[] {args[0], "delete", args[1]});
    }
}
