import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Fills a topic with records whose place in the stream can be checked.
 *
 * <pre>
 * Load BROKERS TOPIC RECORDS PARTITIONS [--first SEQ] [--transactional] [--abort-third] [--per-transaction 500]
 *      [--compression none|lz4|zstd|gzip|snappy] [--pace RECORDS_PER_SECOND] [--padding BYTES] [--until-input-ends]
 * </pre>
 * RECORDS committed records {@code {"seq":n,"part":p,"ad_id":"…","event_type":"…","event_time":ms,"aborted":false}} go
 * round robin to the partitions; {@code seq} counts from {@code --first} (default 0) in each partition, without gaps and
 * in order. With {@code --abort-third} every third transaction is aborted; its records say {@code "aborted":true} and
 * take no numbers. With {@code --until-input-ends} it ends earlier, with the transaction that is under way when its standard
 * input ends. The topic is made when it is missing. The last line is {@code loaded RECORDS}.
 */
public final class Load {
    private static final List<String> KINDS = List.of("view", "click", "purchase");
    private static final long FIRST_TIME_MS = 1_700_000_000_000L;

    public static void main(String[] args) throws Exception {
        if (args.length < 4) {
            System.err.println("usage: Load BROKERS TOPIC RECORDS PARTITIONS [options]");
            System.exit(2);
        }
        String brokers = args[0];
        String topic = args[1];
        long records = Long.parseLong(args[2]);
        int partitions = Integer.parseInt(args[3]);
        Map<String, String> options = options(args, 4, Set.of("--transactional", "--abort-third", "--until-input-ends"));
        boolean abortThird = options.containsKey("--abort-third");
        boolean transactional = abortThird || options.containsKey("--transactional");
        long perTransaction = Long.parseLong(options.getOrDefault("--per-transaction", "500"));
        long pace = Long.parseLong(options.getOrDefault("--pace", "0"));
        long[] next = new long[partitions];
        Arrays.fill(next, Long.parseLong(options.getOrDefault("--first", "0")));
        String padding = "x".repeat(Integer.parseInt(options.getOrDefault("--padding", "0")));
        makeTopic(brokers, topic, partitions);

        Map<String, Object> settings = new HashMap<>();
        settings.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(ProducerConfig.ACKS_CONFIG, "all");
        settings.put(ProducerConfig.LINGER_MS_CONFIG, 5);
        settings.put(ProducerConfig.BATCH_SIZE_CONFIG, 256 * 1024);
        settings.put(ProducerConfig.BUFFER_MEMORY_CONFIG, 64L * 1024 * 1024);
        settings.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, options.getOrDefault("--compression", "none"));
        if (transactional) {
            settings.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, "load-" + topic + "-" + ProcessHandle.current().pid());
        }
        AtomicBoolean ended = new AtomicBoolean();
        if (options.containsKey("--until-input-ends")) {
            awaitInputsEnd(ended);
        }
        long done = 0;
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            long began = System.nanoTime();
            if (transactional) {
                producer.initTransactions();
            }
            for (long transaction = 0; done < records && !(ended.get() && done > 0); transaction++) {
                boolean abort = abortThird && transaction % 3 == 1;
                long some = transactional ? Math.min(perTransaction, records - done) : records - done;
                if (transactional) {
                    producer.beginTransaction();
                }
                for (long n = 0; n < some; n++) {
                    long number = done + n;
                    int partition = (int) (number % partitions);
                    // An aborted transaction takes the numbers that the next one will use: a reader that shows it shows doubles.
                    long seq = next[partition] + (abort ? n / partitions : 0);
                    byte[] value = value(seq, partition, number, abort, padding);
                    producer.send(new ProducerRecord<>(topic, partition, null, value), (metadata, error) -> {
                        if (error != null) {
                            failure.compareAndSet(null, error);
                        }
                    });
                    if (!abort) {
                        next[partition]++;
                    }
                    if (pace > 0) {
                        waitUntil(began + number * 1_000_000_000L / pace);
                    }
                }
                if (transactional) {
                    producer.flush();
                    if (abort) {
                        producer.abortTransaction();
                    } else {
                        producer.commitTransaction();
                    }
                }
                if (!abort) {
                    done += some;
                }
            }
            producer.flush();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        System.out.println("loaded " + done);
    }

    private static void awaitInputsEnd(AtomicBoolean ended) {
        Thread reader = new Thread(() -> {
            try {
                System.in.transferTo(OutputStream.nullOutputStream());
            } catch (IOException broken) {
                // It has ended too.
            }
            ended.set(true);
        });
        reader.setDaemon(true);
        reader.start();
    }

    private static byte[] value(long seq, int partition, long number, boolean aborted, String padding) {
        // The same numbers give the same record: a mixed hash instead of chance.
        long mixed = (seq * 31 + partition) * 0x9E3779B97F4A7C15L >>> 32;
        StringBuilder json = new StringBuilder(160 + padding.length());
        json.append("{\"seq\":").append(seq)
                .append(",\"part\":").append(partition)
                .append(",\"ad_id\":\"ad-").append(mixed % 100)
                .append("\",\"event_type\":\"").append(KINDS.get((int) (mixed / 100 % 3)))
                .append("\",\"event_time\":").append(FIRST_TIME_MS + number)
                .append(",\"aborted\":").append(aborted);
        if (!padding.isEmpty()) {
            json.append(",\"padding\":\"").append(padding).append('"');
        }
        return json.append('}').toString().getBytes(StandardCharsets.UTF_8);
    }

    private static void waitUntil(long nanos) throws InterruptedException {
        long left = nanos - System.nanoTime();
        if (left > 1_000_000) {
            Thread.sleep(left / 1_000_000);
        }
    }

    static void makeTopic(String brokers, String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, (Object) brokers))) {
            if (!admin.listTopics().names().get().contains(topic)) {
                Topics.create(admin, topic, partitions, Map.of());
            }
        }
    }

    /** {@code --name value} pairs, and flags without a value where listed. */
    static Map<String, String> options(String[] args, int from, Set<String> flags) {
        Map<String, String> options = new HashMap<>();
        for (int at = from; at < args.length; at++) {
            if (!args[at].startsWith("--")) {
                throw new IllegalArgumentException("unexpected argument " + args[at]);
            }
            if (flags.contains(args[at])) {
                options.put(args[at], "");
            } else if (at + 1 < args.length) {
                options.put(args[at], args[++at]);
            } else {
                throw new IllegalArgumentException("no value for " + args[at]);
            }
        }
        return options;
    }
}
