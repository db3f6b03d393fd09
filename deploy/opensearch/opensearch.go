// Package opensearch is what `millrace run --setup` installs beside the index template, which follows from the pipeline's
// columns. See README.md for doing it by hand.
package opensearch

import _ "embed"

// Policy is the ISM policy: indices of a day are read-only after two days, and gone after PolicyDays.
//
//go:embed policy.json
var Policy []byte

// Dashboards are saved objects for OpenSearch Dashboards, with the index pattern "clicks".
//
//go:embed dashboards.ndjson
var Dashboards []byte
