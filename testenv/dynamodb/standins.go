package dynamodb

import "github.com/millrace-io/millrace/testenv/npm"

// Dynalite starts the npm package dynalite, an independent DynamoDB in a process of its own, without transactions and without old
// items on failed conditions. testenv/install.sh installs it.
func Dynalite() (*npm.Server, error) {
	const script = npm.Survive + `require(process.cwd())({createTableMs: 10, deleteTableMs: 10, updateTableMs: 10}).listen(+process.argv[1], "127.0.0.1")`
	return npm.Start(npm.Program{
		Module: "dynalite", Ports: 1,
		Args: func(ports []string) []string { return []string{"-e", script, ports[0]} },
	})
}
