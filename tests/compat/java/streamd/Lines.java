package streamd;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/**
 * The line format that all drivers share. Input: {@code partition ts key value headers}; output: {@code topic
 * partition offset ts key value headers}, tab separated. Bytes are hex, null is {@code ~}, headers are
 * {@code name=hex;name=hex}.
 */
final class Lines {
    private static final HexFormat HEX = HexFormat.of();

    private Lines() {}

    static List<ProducerRecord<byte[], byte[]>> read(String file, String topic) throws Exception {
        List<ProducerRecord<byte[], byte[]>> out = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(file))) {
            String[] f = line.split("\t", -1);
            out.add(new ProducerRecord<>(topic, Integer.parseInt(f[0]), Long.parseLong(f[1]),
                    bytes(f[2]), bytes(f[3]), headers(f[4])));
        }
        return out;
    }

    static String line(ConsumerRecord<byte[], byte[]> r) {
        StringBuilder headers = new StringBuilder();
        for (Header h : r.headers()) {
            headers.append(headers.isEmpty() ? "" : ";").append(h.key()).append('=').append(text(h.value()));
        }
        return String.join("\t", r.topic(), Integer.toString(r.partition()), Long.toString(r.offset()),
                Long.toString(r.timestamp()), text(r.key()), text(r.value()), headers);
    }

    private static byte[] bytes(String s) {
        return s.equals("~") ? null : HEX.parseHex(s);
    }

    static String text(byte[] b) {
        return b == null ? "~" : HEX.formatHex(b);
    }

    private static List<Header> headers(String s) {
        List<Header> out = new ArrayList<>();
        if (!s.isEmpty()) {
            for (String h : s.split(";")) {
                String[] kv = h.split("=", 2);
                out.add(new RecordHeader(kv[0], bytes(kv[1])));
            }
        }
        return out;
    }

    static void check(boolean ok, String what) {
        if (!ok) {
            throw new AssertionError(what);
        }
    }

    static void same(Object got, Object want, String what) {
        check(want == null ? got == null : want.equals(got), what + ": got " + got + ", expected " + want);
    }
}
