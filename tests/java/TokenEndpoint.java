import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

/**
 * The token endpoint of an OpenID provider that knows one client.
 *
 * <pre>
 * TokenEndpoint BROKERS PORT ID SECRET SECONDS [CERTIFICATE.pem KEY.pem]
 * </pre>
 * Grants client credentials: tokens that nobody signed, which hold so many seconds. Port 0 is a free one; with a certificate it
 * speaks TLS. Prints {@code port N}, then a line per request: {@code granted} or {@code refused}. Ends with its standard input.
 */
public final class TokenEndpoint {
    private final String authorization;
    private final long seconds;

    private TokenEndpoint(String id, String secret, long seconds) {
        this.authorization = "Basic " + Base64.getEncoder().encodeToString(bytes(id + ":" + secret));
        this.seconds = seconds;
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 5 && args.length != 7) {
            System.err.println("usage: TokenEndpoint BROKERS PORT ID SECRET SECONDS [CERTIFICATE.pem KEY.pem]");
            System.exit(2);
        }
        var endpoint = new TokenEndpoint(args[2], args[3], Long.parseLong(args[4]));
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1]));
        HttpServer server;
        if (args.length == 7) {
            var https = HttpsServer.create(address, 0);
            https.setHttpsConfigurator(new HttpsConfigurator(tls(Path.of(args[5]), Path.of(args[6]))));
            server = https;
        } else {
            server = HttpServer.create(address, 0);
        }
        server.createContext("/token", endpoint::answer);
        server.start();
        say("port " + server.getAddress().getPort());
        while (System.in.read() >= 0) {
            // Nothing is told to it.
        }
        server.stop(0);
    }

    private void answer(HttpExchange exchange) throws IOException {
        String form = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        boolean isKnown = authorization.equals(exchange.getRequestHeaders().getFirst("Authorization"));
        if (!exchange.getRequestMethod().equals("POST") || !form.equals("grant_type=client_credentials&scope=kafka")) {
            respond(exchange, 400, "{\"error\": \"invalid_request\"}");
        } else if (!isKnown) {
            respond(exchange, 401, "{\"error\": \"invalid_client\", \"error_description\": \"who is that?\"}");
        } else {
            respond(exchange, 200, "{\"access_token\": \"" + token() + "\", \"token_type\": \"Bearer\", \"expires_in\": " + seconds + "}");
        }
    }

    private String token() {
        long now = System.currentTimeMillis() / 1000;
        String claims = "{\"sub\": \"reader\", \"iat\": " + now + ", \"exp\": " + (now + seconds) + "}";
        var base64 = Base64.getUrlEncoder().withoutPadding();
        return base64.encodeToString(bytes("{\"alg\": \"none\"}")) + "." + base64.encodeToString(bytes(claims)) + ".";
    }

    private static void respond(HttpExchange exchange, int status, String body) throws IOException {
        say(status == 200 ? "granted" : "refused");
        exchange.getResponseHeaders().add("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, bytes(body).length);
        exchange.getResponseBody().write(bytes(body));
        exchange.close();
    }

    private static SSLContext tls(Path certificate, Path key) throws Exception {
        Certificate chain;
        try (var in = Files.newInputStream(certificate)) {
            chain = CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
        String base64 = Files.readString(key).replaceAll("-----[A-Z ]+-----", "");
        var spec = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(base64));
        var store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        store.setKeyEntry("own", KeyFactory.getInstance("EC").generatePrivate(spec), new char[0], new Certificate[] {chain});
        var keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(store, new char[0]);
        var context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
