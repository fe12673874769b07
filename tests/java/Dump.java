import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * The independent reader: everything of a topic from its beginning to its end offset at start.
 *
 * <pre>
 * Dump BROKERS TOPIC [--json] [--uncommitted] [--deadline SECONDS]
 * </pre>
 * Lines are {@code partition offset key value}, or with {@code --json} objects that keep null apart from empty, headers in
 * order and timestamps; bytes that are not UTF-8 stand as {@code {"base64":"…"}}. Within a partition lines are in offset
 * order. Unless {@code --uncommitted}, only committed records, up to the last stable offset.
 */
public final class Dump {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        if (args.length < 2) {
            System.err.println("usage: Dump BROKERS TOPIC [--json] [--uncommitted] [--deadline SECONDS]");
            System.exit(2);
        }
        Map<String, String> options = Load.options(args, 2, java.util.Set.of("--json", "--uncommitted"));
        Duration limit = Duration.ofSeconds(Long.parseLong(options.getOrDefault("--deadline", "120")));
        boolean json = options.containsKey("--json");
        try (PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8)) {
            read(args[0], args[1], !options.containsKey("--uncommitted"), limit, record -> {
                if (json) {
                    out.println(json(record));
                } else {
                    out.println(record.partition() + " " + record.offset() + " " + text(record.key()) + " " + text(record.value()));
                }
            });
        }
    }

    /** Reads to the end as it is now. A partition is finished by position, since markers and gaps have no records. */
    static void read(String brokers, String topic, boolean committed, Duration limit, Consumer<ConsumerRecord<byte[], byte[]>> each) {
        Map<String, Object> settings = new HashMap<>();
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        settings.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, committed ? "read_committed" : "read_uncommitted");
        settings.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 5000);
        settings.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                    .map(info -> new TopicPartition(topic, info.partition()))
                    .toList();
            consumer.assign(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            Map<TopicPartition, Long> starts = consumer.beginningOffsets(partitions);
            starts.forEach(consumer::seek);
            long deadline = System.nanoTime() + limit.toNanos();
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("not at the end of " + topic + " after " + limit.toSeconds() + " s");
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    if (record.offset() < ends.get(new TopicPartition(topic, record.partition()))) {
                        each.accept(record);
                    }
                }
            }
        }
    }

    static ObjectNode json(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode object = JSON.createObjectNode();
        object.put("partition", record.partition());
        object.put("offset", record.offset());
        object.put("timestamp", record.timestamp());
        put(object, "key", record.key());
        put(object, "value", record.value());
        ArrayNode headers = object.putArray("headers");
        for (Header header : record.headers()) {
            ObjectNode one = headers.addObject();
            one.put("name", header.key());
            put(one, "value", header.value());
        }
        return object;
    }

    private static void put(ObjectNode object, String name, byte[] bytes) {
        if (bytes == null) {
            object.putNull(name);
            return;
        }
        try {
            object.put(name, StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException notText) {
            object.putObject(name).put("base64", Base64.getEncoder().encodeToString(bytes));
        }
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "null" : new String(bytes, StandardCharsets.UTF_8);
    }
}
