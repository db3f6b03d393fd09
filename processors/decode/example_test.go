package decode_test

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

func Example() {
	cfg := decode.Config{
		Fields:  map[string]string{"user": "customer.id"},
		Columns: map[string]decode.Column{"price": {Path: "unit_price", Type: "decimal(9,2)"}},
	}
	schema, err := cfg.Schema()
	if err != nil {
		fmt.Println(err)
		return
	}
	newDecoder, err := decode.New(cfg, schema)
	if err != nil {
		fmt.Println(err)
		return
	}
	decoder, batch := newDecoder(), stream.NewBatch(schema)
	for _, value := range []string{
		`{"event_type": "purchase", "customer": {"id": 17850, "tier": "gold"}, "unit_price": 2.5, "coupon": null}`,
		`{"event_type": "purchase", "unit_price": "abc"}`,
	} {
		batch.Reset()
		if err := decoder.Decode(&stream.Record{Value: []byte(value), Time: time.UnixMilli(1291191960000)}, batch); err != nil {
			fmt.Println("dead letter:", err)
			continue
		}
		event := batch.Events[0]
		for i, c := range schema.Columns {
			if v := event.Values[i]; !v.IsNull() {
				fmt.Printf("%s: %s\n", c.Name, v.AppendText(nil, c.Type))
			}
		}
		fmt.Println("properties:", event.Properties)
	}
	// Output:
	// event_type: purchase
	// event_time: 2010-12-01T08:26:00.000000Z
	// received_at: 2010-12-01T08:26:00.000000Z
	// user_id: 17850
	// price: 2.50
	// properties: {"customer":{"tier": "gold"},"coupon": null}
	// dead letter: price: "abc" is not a decimal(9,2)
}
