/**
 * Agent stands in for LocalStack's own agent, ddb-local-loader, which patches DynamoDB Local to allow for more than
 * 20 global secondary indexes: LocalStack always names one on the command line. This one patches nothing.
 */
public final class Agent {
    private Agent() {}

    public static void premain(String arguments) {}
}
