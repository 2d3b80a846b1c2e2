package streamd;

import java.util.Arrays;

/** The Java client's driver: {@code produce | dump | client | admin | group | nearest | share | txn | flights}, see the methods' owners. */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws Exception {
        String boot = args[1];
        String[] rest = Arrays.copyOfRange(args, 2, args.length);
        switch (args[0]) {
            case "produce" -> Produce.run(boot, rest[0], rest[1], rest[2].split(","));
            case "dump" -> Dump.run(boot, rest);
            case "flights" -> Dump.flights(boot, rest[0]);
            case "client" -> ClientChecks.run(boot, rest[0]);
            case "group" -> Group.run(boot, rest);
            case "share" -> Share.run(boot, rest);
            case "nearest" -> Nearest.run(boot, rest);
            case "txn" -> Txn.run(boot, rest);
            case "admin" -> AdminChecks.run(boot, rest[0]);
            default -> throw new IllegalArgumentException("unknown command " + args[0]);
        }
    }
}
