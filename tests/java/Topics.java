import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/**
 * Topics from outside.
 *
 * <pre>
 * Topics BROKERS wait SECONDS                            until the broker answers and is ready for requests
 * Topics BROKERS create TOPIC PARTITIONS [name=value …]  with topic configs
 * Topics BROKERS place TOPIC PARTITIONS N,N,… [name=value …]  the same with replicas on these brokers, the first of them leading
 * Topics BROKERS move TOPIC N,N,…                        the replicas onto these brokers as "place" does, and wait until they are there
 * Topics BROKERS drain N                                 every replica of every topic off this broker, and wait until none is left
 * Topics BROKERS forget N                                a broker that has ended for good
 * Topics BROKERS leaders TOPIC                           a line per partition: its leader
 * Topics BROKERS delete TOPIC …                          and wait until it is gone
 * Topics BROKERS grow TOPIC PARTITIONS                   to so many partitions, and wait until they are led
 * Topics BROKERS cut TOPIC PARTITION OFFSET              removes what is below the offset, as retention does
 * Topics BROKERS list
 * Topics BROKERS allow TYPE NAME PRINCIPAL OPERATION      an entry of access control: from then on nothing else is allowed there
 * Topics BROKERS describe TOPIC                          "id UUID", then a line per partition, "in sync P: N,N", then configs that were set
 * Topics BROKERS quota CLIENT NAME VALUE                 bounds the client of that id, by consumer_byte_rate and the like
 * Topics BROKERS transaction ID                          "state S timeout MS" of a producer's last transaction
 * </pre>
 * A partition line reads {@code partition P start S stable L end H}: L is the last stable offset, H the high watermark.
 */
public final class Topics {
    public static void main(String[] args) throws Exception {
        if (args.length < 2) {
            System.err.println("usage: Topics BROKERS wait|create|place|move|drain|forget|leaders|delete|grow|cut|list|allow|describe|transaction|quota …");
            System.exit(2);
        }
        Map<String, Object> settings = new HashMap<>();
        settings.put(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        settings.put(AdminClientConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, 20_000);
        settings.put(AdminClientConfig.REQUEST_TIMEOUT_MS_CONFIG, 10_000);
        settings.put(AdminClientConfig.RECONNECT_BACKOFF_MS_CONFIG, 100);
        settings.put(AdminClientConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 250);
        try (Admin admin = Admin.create(settings)) {
            switch (args[1]) {
                case "wait" -> waitReady(admin, Duration.ofSeconds(Long.parseLong(args[2])));
                case "create" -> create(admin, args[2], Integer.parseInt(args[3]), configs(args, 4));
                case "place" -> place(admin, args[2], Integer.parseInt(args[3]), args[4], configs(args, 5));
                case "move" -> move(admin, args[2], args[3]);
                case "drain" -> drain(admin, Integer.parseInt(args[2]));
                case "forget" -> admin.unregisterBroker(Integer.parseInt(args[2])).all().get();
                case "leaders" -> described(admin, args[2]).partitions().forEach(p -> System.out.println(p.leader().id()));
                case "delete" -> delete(admin, List.of(args).subList(2, args.length));
                case "grow" -> grow(admin, args[2], Integer.parseInt(args[3]));
                case "cut" -> {
                    TopicPartition partition = new TopicPartition(args[2], Integer.parseInt(args[3]));
                    RecordsToDelete below = RecordsToDelete.beforeOffset(Long.parseLong(args[4]));
                    admin.deleteRecords(Map.of(partition, below)).all().get();
                }
                case "list" -> new TreeSet<>(admin.listTopics().names().get()).forEach(System.out::println);
                case "allow" -> allow(admin, args[2], args[3], args[4], args[5]);
                case "describe" -> describe(admin, args[2]);
                case "transaction" -> transaction(admin, args[2]);
                case "quota" -> quota(admin, args[2], args[3], Double.parseDouble(args[4]));
                default -> throw new IllegalArgumentException("unknown command " + args[1]);
            }
        }
    }

    static Map<String, String> configs(String[] args, int from) {
        Map<String, String> configs = new TreeMap<>();
        for (int at = from; at < args.length; at++) {
            int equals = args[at].indexOf('=');
            if (equals < 1) {
                throw new IllegalArgumentException("not name=value: " + args[at]);
            }
            configs.put(args[at].substring(0, equals), args[at].substring(equals + 1));
        }
        return configs;
    }

    /** An open port is not enough: a topic must be made and removed, which needs an active controller and a registered broker. */
    private static void waitReady(Admin admin, Duration limit) throws Exception {
        long deadline = System.nanoTime() + limit.toNanos();
        String probe = "tidemill-probe-" + ProcessHandle.current().pid();
        while (true) {
            try {
                createOnce(admin, probe);
                delete(admin, List.of(probe));
                return;
            } catch (ExecutionException error) {
                if (System.nanoTime() > deadline) {
                    throw error;
                }
                Thread.sleep(100);
            }
        }
    }

    /** A try before may have made it, its answer late or lost. */
    private static void createOnce(Admin admin, String topic) throws Exception {
        try {
            create(admin, topic, 1, Map.of());
        } catch (ExecutionException error) {
            if (!(error.getCause() instanceof TopicExistsException)) {
                throw error;
            }
        }
    }

    /** Makes a topic with one replica and waits until every partition has a leader. */
    static void create(Admin admin, String topic, int partitions, Map<String, String> configs) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(configs))).all().get();
        waitLed(admin, topic, partitions);
    }

    private static void place(Admin admin, String topic, int partitions, String brokers, Map<String, String> configs)
            throws Exception {
        Map<Integer, List<Integer>> places = places(partitions, brokers);
        admin.createTopics(List.of(new NewTopic(topic, places).configs(configs))).all().get();
        waitLed(admin, topic, partitions);
    }

    /** The replicas of each partition: the brokers in this order, each time with another one first, which leads. */
    private static Map<Integer, List<Integer>> places(int partitions, String brokers) {
        List<Integer> replicas = Arrays.stream(brokers.split(",")).map(Integer::valueOf).toList();
        Map<Integer, List<Integer>> places = new TreeMap<>();
        for (int partition = 0; partition < partitions; partition++) {
            List<Integer> rotated = new ArrayList<>(replicas);
            Collections.rotate(rotated, -partition);
            places.put(partition, rotated);
        }
        return places;
    }

    private static TopicDescription described(Admin admin, String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private static void move(Admin admin, String topic, String brokers) throws Exception {
        Map<TopicPartition, List<Integer>> moves = new HashMap<>();
        places(described(admin, topic).partitions().size(), brokers)
                .forEach((partition, replicas) -> moves.put(new TopicPartition(topic, partition), replicas));
        reassign(admin, moves);
    }

    private static void drain(Admin admin, int broker) throws Exception {
        List<Integer> others = admin.describeCluster().nodes().get().stream().map(node -> node.id())
                .filter(id -> id != broker).sorted().toList();
        Set<String> topics = admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get();
        Map<TopicPartition, List<Integer>> moves = new HashMap<>();
        for (TopicDescription topic : admin.describeTopics(topics).allTopicNames().get().values()) {
            topic.partitions().forEach(p -> {
                List<Integer> replicas = new ArrayList<>(p.replicas().stream().map(node -> node.id()).toList());
                int at = replicas.indexOf(broker);
                if (at < 0) {
                    return;
                }
                List<Integer> free = others.stream().filter(id -> !replicas.contains(id)).toList();
                if (free.isEmpty()) {
                    replicas.remove(at);
                } else {
                    replicas.set(at, free.get(p.partition() % free.size()));
                }
                moves.put(new TopicPartition(topic.name(), p.partition()), replicas);
            });
        }
        reassign(admin, moves);
    }

    /** Moves replicas and lets the first of each partition lead. */
    private static void reassign(Admin admin, Map<TopicPartition, List<Integer>> moves) throws Exception {
        Map<TopicPartition, Optional<NewPartitionReassignment>> orders = new HashMap<>();
        moves.forEach((partition, replicas) -> orders.put(partition, Optional.of(new NewPartitionReassignment(replicas))));
        admin.alterPartitionReassignments(orders).all().get();
        long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
        while (!admin.listPartitionReassignments(moves.keySet()).reassignments().get().isEmpty()) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("not moved after 60 s: " + moves);
            }
            Thread.sleep(50);
        }
        // What is led by its first replica already says so in an error of its own, which is none here.
        admin.electLeaders(ElectionType.PREFERRED, moves.keySet()).partitions().get();
    }

    private static void grow(Admin admin, String topic, int partitions) throws Exception {
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(partitions))).all().get();
        waitLed(admin, topic, partitions);
    }

    private static void waitLed(Admin admin, String topic, int partitions) throws Exception {
        long deadline = System.nanoTime() + Duration.ofSeconds(20).toNanos();
        while (true) {
            try {
                TopicDescription seen = described(admin, topic);
                boolean led = seen.partitions().stream().allMatch(p -> p.leader() != null && !p.leader().isEmpty());
                if (led && seen.partitions().size() == partitions) {
                    return;
                }
            } catch (ExecutionException notYet) {
                if (System.nanoTime() > deadline) {
                    throw notYet;
                }
            }
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("topic " + topic + " has no leader after 20 s");
            }
            Thread.sleep(20);
        }
    }

    static void delete(Admin admin, List<String> topics) throws Exception {
        admin.deleteTopics(topics).all().get();
        long deadline = System.nanoTime() + Duration.ofSeconds(20).toNanos();
        while (admin.listTopics().names().get().stream().anyMatch(topics::contains)) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("still listed 20 s after their removal: " + topics);
            }
            Thread.sleep(20);
        }
    }

    private static void allow(Admin admin, String type, String name, String principal, String operation) throws Exception {
        ResourcePattern resource = new ResourcePattern(ResourceType.fromString(type), name, PatternType.LITERAL);
        AccessControlEntry entry =
                new AccessControlEntry(principal, "*", AclOperation.fromString(operation), AclPermissionType.ALLOW);
        admin.createAcls(List.of(new AclBinding(resource, entry))).all().get();
    }

    private static void describe(Admin admin, String topic) throws Exception {
        TopicDescription description = described(admin, topic);
        System.out.println("id " + description.topicId());
        List<TopicPartition> partitions = new ArrayList<>();
        description.partitions().forEach(p -> partitions.add(new TopicPartition(topic, p.partition())));
        Map<TopicPartition, Long> start = offsets(admin, partitions, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED);
        Map<TopicPartition, Long> stable = offsets(admin, partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED);
        Map<TopicPartition, Long> end = offsets(admin, partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED);
        for (TopicPartition p : partitions) {
            System.out.printf("partition %d start %d stable %d end %d%n", p.partition(), start.get(p), stable.get(p), end.get(p));
        }
        description.partitions().forEach(p -> {
            String inSync = p.isr().stream().map(node -> node.idString()).sorted().collect(Collectors.joining(","));
            System.out.println("in sync " + p.partition() + ": " + inSync);
        });
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        admin.describeConfigs(List.of(resource)).all().get().get(resource).entries().stream()
                .filter(entry -> entry.source() == org.apache.kafka.clients.admin.ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG)
                .forEach(entry -> System.out.println("config " + entry.name() + "=" + entry.value()));
    }

    private static void quota(Admin admin, String client, String name, double value) throws Exception {
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, client));
        ClientQuotaAlteration.Op op = new ClientQuotaAlteration.Op(name, value);
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, List.of(op)))).all().get();
    }

    private static void transaction(Admin admin, String id) throws Exception {
        TransactionDescription found = admin.describeTransactions(List.of(id)).description(id).get();
        System.out.printf("state %s timeout %d%n", found.state(), found.transactionTimeoutMs());
    }

    static Map<TopicPartition, Long> offsets(Admin admin, List<TopicPartition> partitions, OffsetSpec spec, IsolationLevel level)
            throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        partitions.forEach(partition -> asked.put(partition, spec));
        Map<TopicPartition, Long> answer = new HashMap<>();
        admin.listOffsets(asked, new ListOffsetsOptions(level)).all().get()
                .forEach((partition, info) -> answer.put(partition, info.offset()));
        return answer;
    }
}
