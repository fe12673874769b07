import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Topics that readers get wrong, with what a read-committed reader must see of them.
 *
 * <pre>
 * HardTopics BROKERS PREFIX TRUTH.json [SEED] [only=NAME,…]
 * </pre>
 * Makes {@code PREFIX-interleaved, -tail, -compacted, -empty, -idle, -odd, -append-time, -open} and writes
 * {@code {"topics":[{"name":…,"topic":…,"partitions":n,"ends":[…],"stable":[…],"records":[…],"aborted":[…]}]}}: records
 * are those that must be seen, in offset order per partition, each as {@link Dump} prints it; aborted ones are those
 * that must never be. {@code ends} are high watermarks, {@code stable} last stable offsets.
 *
 * <p>What must be seen comes from what was written and acknowledged, not from reading back. Only the compacted topic is
 * read back, since which records stay is the broker's choice; the last record of every key must be among them.
 */
public final class HardTopics {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final String brokers;
    private final String prefix;
    private final Random random;
    private final Admin admin;
    private final ArrayNode truth = JSON.createArrayNode();

    private HardTopics(String brokers, String prefix, long seed) {
        this.brokers = brokers;
        this.prefix = prefix;
        this.random = new Random(seed);
        this.admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, (Object) brokers));
    }

    public static void main(String[] args) throws Exception {
        if (args.length < 3) {
            System.err.println("usage: HardTopics BROKERS PREFIX TRUTH.json [SEED] [only=NAME,…]");
            System.exit(2);
        }
        long seed = 1;
        List<String> only = List.of("interleaved", "tail", "compacted", "empty", "idle", "odd", "append-time", "open");
        for (int at = 3; at < args.length; at++) {
            if (args[at].startsWith("only=")) {
                only = List.of(args[at].substring(5).split(","));
            } else {
                seed = Long.parseLong(args[at]);
            }
        }
        HardTopics topics = new HardTopics(args[0], args[1], seed);
        for (String name : only) {
            switch (name) {
                case "interleaved" -> topics.interleaved();
                case "tail" -> topics.tail();
                case "compacted" -> topics.compacted();
                case "empty" -> topics.empty();
                case "idle" -> topics.idle();
                case "odd" -> topics.odd();
                case "append-time" -> topics.appendTime();
                case "open" -> topics.open();
                default -> throw new IllegalArgumentException("no hard topic " + name);
            }
        }
        ObjectNode file = JSON.createObjectNode();
        file.put("seed", seed);
        file.set("topics", topics.truth);
        JSON.writeValue(new File(args[2]), file);
        topics.admin.close();
        System.out.println("made " + String.join(" ", only));
    }

    /**
     * Three transactional producers take turns, batch by batch, in four partitions; about a third of the transactions is
     * aborted. Partition 3 gets aborted records only. Every partition ends in a marker, which no reader ever sees.
     */
    private void interleaved() throws Exception {
        Topic topic = new Topic("interleaved", 4, Map.of());
        List<Writer> writers = new ArrayList<>();
        for (int n = 0; n < 3; n++) {
            writers.add(new Writer(topic, "p" + n, n == 1 ? "none" : "lz4", true));
        }
        for (int turn = 0; turn < 400; turn++) {
            Writer writer = writers.get(random.nextInt(writers.size()));
            if (!writer.inTransaction()) {
                writer.begin(random.nextInt(3) == 0);
            }
            int some = 1 + random.nextInt(12);
            for (int n = 0; n < some; n++) {
                writer.send(random.nextInt(writer.aborting() ? 4 : 3));
            }
            writer.flush(); // a batch of its own in each partition
            if (random.nextInt(4) == 0) {
                writer.end();
            }
        }
        for (Writer writer : writers) {
            if (!writer.inTransaction()) {
                writer.begin(false);
            }
            for (int partition = 0; partition < 3; partition++) {
                writer.send(partition);
            }
            writer.end();
            writer.close();
        }
        topic.finish();
    }

    /** Committed records, then one long aborted transaction at the end. */
    private void tail() throws Exception {
        Topic topic = new Topic("tail", 2, Map.of());
        Writer writer = new Writer(topic, "p0", "lz4", true);
        for (boolean aborted : new boolean[] {false, true, false, true}) {
            writer.begin(aborted);
            for (int n = 0; n < 500; n++) {
                writer.send(n % 2);
                if (n % 50 == 49) {
                    writer.flush();
                }
            }
            writer.end();
        }
        writer.close();
        topic.finish();
    }

    /** Keys written again and again in many segments until the cleaner has taken offsets away, then frozen. */
    private void compacted() throws Exception {
        Topic topic = new Topic("compacted", 2, Map.of(
                "cleanup.policy", "compact", "segment.ms", "500", "min.cleanable.dirty.ratio", "0.001", "delete.retention.ms", "0",
                "min.compaction.lag.ms", "0", "max.compaction.lag.ms", "1000"));
        Writer writer = new Writer(topic, "p0", "none", false);
        for (int round = 0; round < 6; round++) {
            for (int n = 0; n < 300; n++) {
                // Keys 0 to 49 return every round, keys above 1000 are written once and must stay.
                String key = n % 3 == 0 ? "key-" + (1000 + round * 300 + n) : "key-" + random.nextInt(50);
                writer.send(n % 2, key);
                if (n % 20 == 19) {
                    writer.flush();
                }
            }
            writer.flush();
            Thread.sleep(600); // the next append rolls the segment; only closed segments are cleaned
        }
        writer.send(0, "key-last");
        writer.send(1, "key-last");
        writer.close();
        topic.settle();

        // The cleaner works in passes: first it must take something away, then come to rest.
        long deadline = System.nanoTime() + Duration.ofSeconds(90).toNanos();
        long written = topic.visible.size();
        long before = -1;
        long restingSince = System.nanoTime();
        while (true) {
            long now = topic.readBack().size();
            if (now != before) {
                restingSince = System.nanoTime();
                before = now;
            }
            if (now < written * 3 / 4 && System.nanoTime() - restingSince > Duration.ofSeconds(4).toNanos()) {
                break;
            }
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("no compaction to speak of in 90 s: " + now + " of " + written + " records left");
            }
            Thread.sleep(300);
        }
        topic.freezeCompaction();
        topic.keepWhatStayed();
        topic.finish();
    }

    private void empty() throws Exception {
        new Topic("empty", 2, Map.of()).finish();
    }

    /** Partition 1 of three never gets a record. */
    private void idle() throws Exception {
        Topic topic = new Topic("idle", 3, Map.of());
        Writer writer = new Writer(topic, "p0", "lz4", false);
        for (int n = 0; n < 400; n++) {
            writer.send(n % 2 * 2);
        }
        writer.close();
        topic.finish();
    }

    /** Ordered and repeated headers, null and empty keys and values, bytes that are no text, large and well compressible values. */
    private void odd() throws Exception {
        Topic topic = new Topic("odd", 2, Map.of("max.message.bytes", "8388608"));
        for (String compression : List.of("none", "lz4")) {
            Writer writer = new Writer(topic, compression, compression, false);
            byte[] plain = "{\"odd\":true}".getBytes(StandardCharsets.UTF_8);
            RecordHeaders headers = new RecordHeaders();
            headers.add("b", "1".getBytes(StandardCharsets.UTF_8));
            headers.add("a", "2".getBytes(StandardCharsets.UTF_8));
            headers.add("b", "3".getBytes(StandardCharsets.UTF_8));
            headers.add("none", null);
            headers.add("empty", new byte[0]);
            headers.add("binary", new byte[] {(byte) 0xff, 0, (byte) 0xfe});
            writer.sendRaw(0, null, plain, headers, null);
            RecordHeaders many = new RecordHeaders();
            for (int n = 0; n < 10_000; n++) {
                many.add("h" + n % 7, Integer.toString(n).getBytes(StandardCharsets.UTF_8));
            }
            writer.sendRaw(0, "many".getBytes(StandardCharsets.UTF_8), plain, many, null);
            writer.sendRaw(0, null, null, new RecordHeaders(), null);
            writer.sendRaw(0, "tombstone".getBytes(StandardCharsets.UTF_8), null, new RecordHeaders(), null);
            writer.sendRaw(0, new byte[0], new byte[0], new RecordHeaders(), null);
            writer.sendRaw(0, new byte[] {0, (byte) 0xff}, new byte[] {(byte) 0x80, 0, 10, 13}, new RecordHeaders(), null);
            writer.sendRaw(0, "first".getBytes(StandardCharsets.UTF_8), plain, new RecordHeaders(), 0L);
            writer.sendRaw(0, "late".getBytes(StandardCharsets.UTF_8), plain, new RecordHeaders(), 1_000L);
            byte[] noise = new byte[3 * 1024 * 1024];
            random.nextBytes(noise);
            writer.sendRaw(1, "noise".getBytes(StandardCharsets.UTF_8), noise, new RecordHeaders(), null);
            writer.sendRaw(1, "zeros".getBytes(StandardCharsets.UTF_8), "0".repeat(7 * 1024 * 1024).getBytes(StandardCharsets.UTF_8),
                    new RecordHeaders(), null);
            writer.sendRaw(1, "after".getBytes(StandardCharsets.UTF_8), plain, new RecordHeaders(), null);
            writer.close();
        }
        topic.finish();
    }

    /** The broker stamps the records: the time stands in the batch, the deltas of the records mean nothing. */
    private void appendTime() throws Exception {
        Topic topic = new Topic("append-time", 1, Map.of("message.timestamp.type", "LogAppendTime"));
        Writer writer = new Writer(topic, "p0", "lz4", false);
        for (int n = 0; n < 200; n++) {
            writer.send(0);
            if (n % 50 == 49) {
                writer.flush();
            }
        }
        writer.close();
        topic.finish();
    }

    /** A transaction that stays open for 15 minutes holds the last stable offset; later committed records wait behind it. */
    private void open() throws Exception {
        Topic topic = new Topic("open", 1, Map.of());
        Writer before = new Writer(topic, "before", "none", false);
        for (int n = 0; n < 100; n++) {
            before.send(0);
        }
        before.close();
        topic.settle();
        Writer hanging = new Writer(topic, "hanging", "none", true);
        hanging.begin(true);
        for (int n = 0; n < 50; n++) {
            hanging.send(0);
        }
        hanging.flush();
        hanging.abandon();
        Writer after = new Writer(topic, "after", "none", false);
        for (int n = 0; n < 50; n++) {
            after.send(0);
        }
        after.close();
        topic.settle();
        topic.keepOnlyStable();
        topic.finish();
    }

    /** One topic and what must be seen of it. */
    private final class Topic {
        final String name;
        final String topic;
        final int partitions;
        /** By partition and offset. */
        final TreeMap<Integer, TreeMap<Long, ObjectNode>> byPartition = new TreeMap<>();
        final List<ObjectNode> visible = new ArrayList<>();
        final List<ObjectNode> aborted = new ArrayList<>();
        final List<Sent> pending = new ArrayList<>();

        Topic(String name, int partitions, Map<String, String> configs) throws Exception {
            this.name = name;
            this.topic = prefix + "-" + name;
            this.partitions = partitions;
            Topics.create(admin, topic, partitions, configs);
        }

        /** Waits for every acknowledgement and notes where each record lies. */
        void settle() throws Exception {
            for (Sent sent : pending) {
                RecordMetadata where = sent.future.get();
                // The time the broker gave it, which is the producer's own unless the broker stamps records.
                ObjectNode record = Dump.json(new ConsumerRecord<>(topic, where.partition(), where.offset(), where.timestamp(),
                        org.apache.kafka.common.record.TimestampType.CREATE_TIME, -1, -1, sent.record.key(), sent.record.value(),
                        sent.record.headers(), java.util.Optional.empty()));
                (sent.aborted ? aborted : visible).add(record);
            }
            pending.clear();
        }

        List<ObjectNode> readBack() {
            List<ObjectNode> records = new ArrayList<>();
            Dump.read(brokers, topic, true, Duration.ofSeconds(60), record -> records.add(Dump.json(record)));
            return records;
        }

        void freezeCompaction() throws Exception {
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            List<AlterConfigOp> ops = new ArrayList<>();
            for (String lag : List.of("max.compaction.lag.ms", "min.compaction.lag.ms")) { // in this order: min may not exceed max
                ops.add(new AlterConfigOp(new ConfigEntry(lag, Long.toString(Long.MAX_VALUE)), AlterConfigOp.OpType.SET));
            }
            admin.incrementalAlterConfigs(Map.of(resource, ops)).all().get();
            Thread.sleep(2_500); // a pass that had begun ends
        }

        /** Narrows what must be seen to what the cleaner left, and refuses if that is not what compaction allows. */
        void keepWhatStayed() {
            Map<String, ObjectNode> written = new HashMap<>();
            Map<String, Long> lastOfKey = new HashMap<>();
            for (ObjectNode record : visible) {
                written.put(place(record), record);
                lastOfKey.merge(record.get("partition") + "/" + record.get("key"), record.get("offset").asLong(), Math::max);
            }
            List<ObjectNode> stayed = readBack();
            for (ObjectNode record : stayed) {
                if (!record.equals(written.get(place(record)))) {
                    throw new IllegalStateException("read back what was not written: " + record);
                }
                lastOfKey.remove(record.get("partition") + "/" + record.get("key"), record.get("offset").asLong());
            }
            if (!lastOfKey.isEmpty()) {
                throw new IllegalStateException("compaction took the last record of " + lastOfKey.keySet());
            }
            visible.clear();
            visible.addAll(stayed);
        }

        void keepOnlyStable() throws Exception {
            List<Long> stable = offsets(org.apache.kafka.common.IsolationLevel.READ_COMMITTED);
            visible.removeIf(record -> record.get("offset").asLong() >= stable.get(record.get("partition").asInt()));
        }

        private List<Long> offsets(org.apache.kafka.common.IsolationLevel level) throws Exception {
            List<org.apache.kafka.common.TopicPartition> all = new ArrayList<>();
            for (int partition = 0; partition < partitions; partition++) {
                all.add(new org.apache.kafka.common.TopicPartition(topic, partition));
            }
            var answer = Topics.offsets(admin, all, org.apache.kafka.clients.admin.OffsetSpec.latest(), level);
            return all.stream().map(answer::get).toList();
        }

        void finish() throws Exception {
            settle();
            for (ObjectNode record : visible) {
                byPartition.computeIfAbsent(record.get("partition").asInt(), p -> new TreeMap<>()).put(record.get("offset").asLong(), record);
            }
            ObjectNode node = truth.addObject();
            node.put("name", name);
            node.put("topic", topic);
            node.put("partitions", partitions);
            ArrayNode ends = node.putArray("ends");
            offsets(org.apache.kafka.common.IsolationLevel.READ_UNCOMMITTED).forEach(ends::add);
            ArrayNode stable = node.putArray("stable");
            offsets(org.apache.kafka.common.IsolationLevel.READ_COMMITTED).forEach(stable::add);
            ArrayNode records = node.putArray("records");
            byPartition.values().forEach(partition -> partition.values().forEach(records::add));
            node.putArray("aborted").addAll(aborted);
            System.err.printf("%s: %d records to see, %d aborted%n", topic, visible.size(), aborted.size());
        }
    }

    private static String place(ObjectNode record) {
        return record.get("partition").asInt() + "@" + record.get("offset").asLong();
    }

    private record Sent(ProducerRecord<byte[], byte[]> record, Future<RecordMetadata> future, boolean aborted) {}

    /** A producer with its own numbers: {@code seq} counts what it commits in each partition, without gaps. */
    private final class Writer {
        private final Topic topic;
        private final String name;
        private final KafkaProducer<byte[], byte[]> producer;
        private final Map<Integer, Long> next = new HashMap<>();
        private final Map<Integer, Long> nextAborted = new HashMap<>();
        private boolean inTransaction;
        private boolean aborting;
        private int transaction;

        Writer(Topic topic, String name, String compression, boolean transactional) {
            this.topic = topic;
            this.name = name;
            Map<String, Object> settings = new HashMap<>();
            settings.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
            settings.put(ProducerConfig.ACKS_CONFIG, "all");
            settings.put(ProducerConfig.LINGER_MS_CONFIG, 1000); // batches end where flush says
            settings.put(ProducerConfig.MAX_REQUEST_SIZE_CONFIG, 8 * 1024 * 1024);
            settings.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, compression);
            if (transactional) {
                settings.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, topic.topic + "-" + name);
                settings.put(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 900_000);
            }
            producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
            if (transactional) {
                producer.initTransactions();
            }
        }

        boolean inTransaction() {
            return inTransaction;
        }

        boolean aborting() {
            return aborting;
        }

        void begin(boolean willAbort) {
            producer.beginTransaction();
            inTransaction = true;
            aborting = willAbort;
            transaction++;
        }

        void send(int partition) {
            send(partition, random.nextInt(4) == 0 ? null : "key-" + random.nextInt(20));
        }

        void send(int partition, String key) {
            long seq = (aborting ? nextAborted : next).merge(partition, 1L, Long::sum) - 1;
            String value = "{\"seq\":" + seq + ",\"part\":" + partition + ",\"producer\":\"" + name + "\",\"txn\":" + transaction
                    + ",\"aborted\":" + aborting + "}";
            sendRaw(partition, key == null ? null : key.getBytes(StandardCharsets.UTF_8), value.getBytes(StandardCharsets.UTF_8),
                    new RecordHeaders(), null);
        }

        void sendRaw(int partition, byte[] key, byte[] value, RecordHeaders headers, Long timestamp) {
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic.topic, partition, timestamp, key, value, headers);
            topic.pending.add(new Sent(record, producer.send(record), aborting));
        }

        void flush() {
            producer.flush();
        }

        void end() throws Exception {
            producer.flush();
            topic.settle(); // an abort must not meet records in flight: it would cancel them, and they would have no offset
            if (aborting) {
                producer.abortTransaction();
            } else {
                producer.commitTransaction();
            }
            inTransaction = false;
            aborting = false;
        }

        /** Leaves the transaction open. */
        void abandon() throws Exception {
            topic.settle();
            producer.close(Duration.ZERO);
        }

        void close() {
            producer.close();
        }
    }
}
