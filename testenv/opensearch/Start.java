import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;

/** Runs one OpenSearch node from the class path, until it is told to end: DATA [setting=value | plugin=class]... */
final class Start {
	private static final List<String> MODULES = List.of(
		"org.opensearch.transport.Netty4ModulePlugin",
		"org.opensearch.analysis.common.CommonAnalysisModulePlugin",
		"org.opensearch.index.mapper.MapperExtrasModulePlugin",
		"org.opensearch.index.reindex.ReindexModulePlugin",
		"org.opensearch.ingest.common.IngestCommonModulePlugin",
		"org.opensearch.painless.PainlessModulePlugin");

	/** The constructor that takes plugins from the class path is protected. */
	private static final class FromClassPath extends Node {
		FromClassPath(Environment env, Collection<PluginInfo> plugins) {
			super(env, plugins, true);
		}
	}

	private static PluginInfo plugin(String name) {
		return new PluginInfo(name, "", "", Version.CURRENT, "17", name, "", List.of(), false);
	}

	public static void main(String[] args) throws Exception {
		Path data = Path.of(args[0]).toAbsolutePath();
		Path config = Files.createDirectories(data.resolve("config"));
		Settings.Builder settings = Settings.builder()
			.put("path.home", data.toString())
			.put("cluster.name", "tests").put("node.name", "node-1").put("discovery.type", "single-node")
			.put("network.host", "127.0.0.1").put("transport.port", "0")
			.put("cluster.routing.allocation.disk.threshold_enabled", false); // the machine's disk is not under test
		List<PluginInfo> plugins = new ArrayList<>(MODULES.stream().map(Start::plugin).toList());
		for (String arg : List.of(args).subList(1, args.length)) {
			String[] pair = arg.split("=", 2);
			if (pair[0].equals("plugin")) {
				plugins.add(plugin(pair[1]));
			} else {
				settings.put(pair[0], pair[1]);
			}
		}
		Environment env = InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), config, () -> "node-1");
		Node node = new FromClassPath(env, plugins);
		Runtime.getRuntime().addShutdownHook(new Thread(() -> {
			try {
				node.close();
			} catch (Exception e) {
				e.printStackTrace();
			}
		}));
		node.start();
		Thread.currentThread().join();
	}
}
