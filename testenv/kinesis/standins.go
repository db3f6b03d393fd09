package kinesis

import "github.com/millrace-io/millrace/testenv/npm"

// Kinesalite starts the npm package kinesalite, an independent Kinesis in a process of its own: fast, with splits and merges, but
// without UpdateShardCount and ARNs. testenv/install.sh installs it.
func Kinesalite() (*npm.Server, error) {
	const script = npm.Survive + `require(process.cwd())({createStreamMs: 10, updateStreamMs: 10, deleteStreamMs: 10, shardLimit: 1000})
		.listen(+process.argv[1], "127.0.0.1")`
	return npm.Start(npm.Program{
		Module: "kinesalite", Ports: 1,
		Args: func(ports []string) []string { return []string{"-e", script, ports[0]} },
	})
}

// Local starts the npm package kinesis-local, another one: slower, with UpdateShardCount and ARNs. testenv/install.sh installs it.
func Local() (*npm.Server, error) {
	// The program listens on all interfaces, and has no setting for that.
	const script = `const {Server} = require("node:net"), listen = Server.prototype.listen
		Server.prototype.listen = function (port, done) { return listen.call(this, port, "127.0.0.1", done) }
		require(process.cwd() + "/main.js")`
	return npm.Start(npm.Program{
		Module: "kinesis-local", Ports: 2,
		Args: func([]string) []string { return []string{"-e", script} },
		Env: func(ports []string) []string {
			return []string{
				"KINESIS_MOCK_CERT_PATH=server.json", "KINESIS_MOCK_PLAIN_PORT=" + ports[0], "KINESIS_MOCK_TLS_PORT=" + ports[1],
				"SHARD_LIMIT=1000", "LOG_LEVEL=WARN",
			}
		},
	})
}
