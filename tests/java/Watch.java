import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A reader that looks at a topic while others write to it.
 *
 * <pre>
 * Watch BROKERS TOPIC MILLISECONDS
 * </pre>
 * Every so often it takes the topic's stable ends and prints each committed record below them that it hasn't printed
 * before, as {@code Dump --json} does, then a line {@code look}. A partition is thus shown as it stood at one moment: whole
 * transactions. A byte on standard input, or its end, asks for the last look.
 */
public final class Watch {
    private static final Duration LOOK_MAX = Duration.ofSeconds(60);

    public static void main(String[] args) throws Exception {
        if (args.length != 3) {
            System.err.println("usage: Watch BROKERS TOPIC MILLISECONDS");
            System.exit(2);
        }
        Map<String, Object> settings = new HashMap<>();
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        settings.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        settings.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                var out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8)) {
            List<TopicPartition> partitions = consumer.partitionsFor(args[1]).stream()
                    .map(info -> new TopicPartition(args[1], info.partition()))
                    .toList();
            consumer.assign(partitions);
            consumer.beginningOffsets(partitions).forEach(consumer::seek);
            List<ConsumerRecord<byte[], byte[]>> beyond = new ArrayList<>();
            long every = Duration.ofMillis(Long.parseLong(args[2])).toNanos();
            boolean last;
            do {
                long next = System.nanoTime() + every;
                last = lastIsAskedFor();
                beyond = look(consumer, partitions, beyond, out);
                out.println("look");
                out.flush();
                while (!last && !lastIsAskedFor() && System.nanoTime() < next) {
                    consumer.poll(Duration.ofMillis(20)).forEach(beyond::add);
                }
            } while (!last);
        }
    }

    /** Shows what is below the ends as they are now; gives what was read beyond them. */
    private static List<ConsumerRecord<byte[], byte[]>> look(
            KafkaConsumer<byte[], byte[]> consumer,
            List<TopicPartition> partitions,
            List<ConsumerRecord<byte[], byte[]>> read,
            PrintStream out) {
        Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
        long deadline = System.nanoTime() + LOOK_MAX.toNanos();
        while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("not at " + ends + " after " + LOOK_MAX.toSeconds() + " s");
            }
            consumer.poll(Duration.ofMillis(100)).forEach(read::add);
        }
        List<ConsumerRecord<byte[], byte[]>> beyond = new ArrayList<>();
        for (ConsumerRecord<byte[], byte[]> record : read) {
            if (record.offset() < ends.get(new TopicPartition(record.topic(), record.partition()))) {
                out.println(Dump.json(record));
            } else {
                beyond.add(record);
            }
        }
        return beyond;
    }

    /** A look from another thread would need a lock; the end of a pipe is only seen by reading, hence the thread. */
    private static boolean lastIsAskedFor() {
        return !INPUT.isAlive();
    }

    private static final Thread INPUT = new Thread(() -> {
        try {
            System.in.read();
        } catch (IOException closed) {
            // The same as its end.
        }
    });

    static {
        INPUT.setDaemon(true);
        INPUT.start();
    }
}
