package expr_test

import (
	"context"
	"fmt"

	"github.com/millrace-io/millrace/processors/expr"
	"github.com/millrace-io/millrace/stream"
)

func ExamplePredicate() {
	schema, _ := stream.NewSchema()
	where, _ := expr.Predicate(`type == "purchase" && price * quantity >= 100`, schema)

	b := stream.NewBatch(schema)
	e := b.Append(&stream.Record{})
	e.Values[stream.EventType] = stream.StringValue("purchase")
	e.Values[stream.Price] = stream.FloatValue(40)
	e.Values[stream.Quantity] = stream.IntValue(3)
	fmt.Println(where(e))

	_, err := expr.Predicate(`typ == "purchase"`, schema)
	fmt.Println(err)
	// Output:
	// true
	// 1:1: unknown column "typ"; did you mean "type"?
}

func ExampleExpr_Eval() {
	schema, _ := stream.NewSchema()
	x, _ := expr.Compile(`concat(host(url), "/", coalesce(properties.page.section, "none"))`, schema)

	b := stream.NewBatch(schema)
	e := b.Append(&stream.Record{})
	e.Values[stream.URL] = stream.StringValue("https://Shop.example.com/mugs?q=red")
	e.Properties = `{"page": {"section": "kitchen"}}`
	v, err := x.Eval(e, b)
	fmt.Println(x.Type(), v.Text(), err)
	// Output:
	// string shop.example.com/kitchen <nil>
}

func ExampleMap() {
	schema, _ := stream.NewSchema()
	newProcessor, _ := expr.Map("process.1.map", []expr.Assignment{
		{Column: "country", Value: `upper(country)`},
		{Column: "region", Value: `if(country in ["DE", "AT", "CH"], "dach", "other")`}, // sees the new country
	}, schema)

	b := stream.NewBatch(schema)
	e := b.Append(&stream.Record{})
	e.Values[stream.Country] = stream.StringValue("at")
	_ = newProcessor().Process(context.Background(), b)
	fmt.Println(e.Values[stream.Country].Text(), e.Values[stream.Region].Text())
	// Output:
	// AT dach
}
