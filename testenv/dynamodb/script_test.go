package dynamodb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// writeAnswers is given to write testdata/answers.txt anew: go test ./testenv/dynamodb -run Answers -write
var writeAnswers = flag.Bool("write", false, "write testdata/answers.txt")

// The answers to the script stand in testdata/answers.txt. TestRealDynaliteAgrees runs the same script against a server that others
// wrote, so the file is not only what this server happens to say.
func TestAnswersAreThoseOfTheFile(t *testing.T) {
	const file = "testdata/answers.txt"
	_, c := start(t, Options{})
	var got strings.Builder
	for _, a := range play(t, c) {
		fmt.Fprintf(&got, "%s\n    %s\n", a.step, a.text)
	}
	if *writeAnswers {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() == string(want) {
		return
	}
	w := strings.Split(string(want), "\n")
	for i, line := range strings.Split(got.String(), "\n") {
		if i >= len(w) || line != w[i] {
			t.Fatalf("line %d is %q; want %q", i+1, line, append(w, "")[min(i, len(w))])
		}
	}
	t.Error("the file has more answers")
}

// answer is what matters of a step's outcome, as a text.
type answer struct{ step, text string }

// script collects the answers of one server.
type script struct {
	t       *testing.T
	c       *dynamodb.Client
	answers []answer
}

func (s *script) note(step string, text any, err error) {
	var api smithy.APIError
	if errors.As(err, &api) {
		text = "error " + api.ErrorCode() + ": " + message(api)
	} else if err != nil {
		text = err
	}
	s.answers = append(s.answers, answer{step, fmt.Sprint(text)})
}

// message is an error's text, of a syntax error only that it is one: where it is, each parser says in its own words.
func message(err smithy.APIError) string {
	what, _, _ := strings.Cut(err.ErrorMessage(), "Syntax error; ")
	if what != err.ErrorMessage() {
		return what + "Syntax error"
	}
	return what
}

func play(t *testing.T, c *dynamodb.Client) []answer {
	s := &script{t: t, c: c}
	s.tables()
	s.numbers()
	s.conditions()
	s.updates()
	s.projections()
	s.queries()
	s.scans()
	s.batches()
	s.limits()
	slices.SortStableFunc(s.answers, func(a, b answer) int { return strings.Compare(a.step, b.step) }) // some come out of maps
	return s.answers
}

// show is a value as a text.
func show(v types.AttributeValue) string {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return fmt.Sprintf("%q", v.Value)
	case *types.AttributeValueMemberN:
		return v.Value
	case *types.AttributeValueMemberB:
		return fmt.Sprintf("%x", v.Value)
	case *types.AttributeValueMemberM:
		return showItem(v.Value)
	case *types.AttributeValueMemberL:
		var parts []string
		for _, e := range v.Value {
			parts = append(parts, show(e))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case *types.AttributeValueMemberSS:
		return fmt.Sprint("SS", slices.Sorted(slices.Values(v.Value)))
	case *types.AttributeValueMemberNS:
		return fmt.Sprint("NS", slices.Sorted(slices.Values(v.Value)))
	case *types.AttributeValueMemberBOOL:
		return fmt.Sprint(v.Value)
	}
	return fmt.Sprintf("%T", v)
}

func showItem(it M) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(it)) {
		parts = append(parts, name+"="+show(it[name]))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

var (
	one  = aws.String("one")  // hash key id, a text
	two  = aws.String("two")  // hash key id, a text; sort key n, a number
	blob = aws.String("blob") // hash key id, a text; sort key b, a binary
)

func (s *script) create(step string, name *string, sort types.AttributeDefinition) {
	in := &dynamodb.CreateTableInput{
		TableName: name, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	}
	if sort.AttributeName != nil {
		in.AttributeDefinitions = append(in.AttributeDefinitions, sort)
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: sort.AttributeName, KeyType: types.KeyTypeRange})
	}
	_, err := s.c.CreateTable(s.t.Context(), in)
	s.note(step, "", err)
	if err != nil {
		return
	}
	if err := dynamodb.NewTableExistsWaiter(s.c, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 10*time.Millisecond, 100*time.Millisecond
	}).Wait(s.t.Context(), &dynamodb.DescribeTableInput{TableName: name}, time.Minute); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) tables() {
	s.create("create", one, types.AttributeDefinition{})
	s.create("create with a sort key", two, types.AttributeDefinition{AttributeName: aws.String("n"), AttributeType: types.ScalarAttributeTypeN})
	s.create("create with a binary", blob, types.AttributeDefinition{AttributeName: aws.String("b"), AttributeType: types.ScalarAttributeTypeB})
	s.create("create again", one, types.AttributeDefinition{})
	out, err := s.c.DescribeTable(s.t.Context(), &dynamodb.DescribeTableInput{TableName: two})
	if err != nil {
		s.t.Fatal(err)
	}
	s.note("describe", fmt.Sprint(out.Table.TableStatus, out.Table.BillingModeSummary.BillingMode, *out.Table.KeySchema[1].AttributeName, out.Table.KeySchema[1].KeyType), nil)
	_, err = s.c.DescribeTable(s.t.Context(), &dynamodb.DescribeTableInput{TableName: aws.String("none")})
	s.note("describe none", "", err)
	list, err := s.c.ListTables(s.t.Context(), &dynamodb.ListTablesInput{Limit: aws.Int32(2)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.note("list", fmt.Sprint(list.TableNames, *list.LastEvaluatedTableName), nil)
}

func (s *script) numbers() {
	for _, n := range []string{
		"0", "-0", "1.50", "+3", "007", "1e3", "-1.5E-3", ".5", "5.", "12345678901234567890123456789012345678",
		"1234567890123456789012345678901234567.8", "123456789012345678901234567890123456789", "1e125", "1e126", "9.9e125", "1e-130", "1e-131", "abc",
		"", "1e", "--1", "1 ",
	} {
		_, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{TableName: one, Item: M{"id": S("number"), "v": N(n)}})
		if err != nil {
			s.note("number "+n, "", err)
			continue
		}
		out, err := s.c.GetItem(s.t.Context(), &dynamodb.GetItemInput{TableName: one, Key: M{"id": S("number")}})
		s.note("number "+n, showItem(out.Item), err)
	}
}

// full is an item with a value of each type.
func full() M {
	return M{
		"id": S("full"), "txt": S("naïve txt"), "num": N("12.5"), "bin": &types.AttributeValueMemberB{Value: []byte{1, 0, 255}},
		"yes": &types.AttributeValueMemberBOOL{Value: true}, "nil": &types.AttributeValueMemberNULL{Value: true},
		"doc":  &types.AttributeValueMemberM{Value: M{"a": N(1), "b.c": S("dot"), "deep": &types.AttributeValueMemberL{Value: []types.AttributeValue{N(1), M1("x", N(2))}}}},
		"seq":  &types.AttributeValueMemberL{Value: []types.AttributeValue{S("a"), N(2), S("c"), S("d")}},
		"ss":   &types.AttributeValueMemberSS{Value: []string{"b", "a"}},
		"ns":   &types.AttributeValueMemberNS{Value: []string{"10", "9"}},
		"nums": &types.AttributeValueMemberL{Value: []types.AttributeValue{N(3)}},
	}
}

// M1 is a map of one name.
func M1(name string, v types.AttributeValue) types.AttributeValue {
	return &types.AttributeValueMemberM{Value: M{name: v}}
}

// values are those that expressions of the script may use.
func values() M {
	return M{
		":one": N(1), ":ten": N("10.0"), ":half": N("12.50"), ":big": N("1e20"), ":text": S("naïve"), ":a": S("a"), ":c": S("c"),
		":N": S("N"), ":Q": S("Q"), ":full": S("full"),
		":bin": &types.AttributeValueMemberB{Value: []byte{1, 0}}, ":yes": &types.AttributeValueMemberBOOL{Value: true},
		":ss":  &types.AttributeValueMemberSS{Value: []string{"a", "z"}},
		":all": &types.AttributeValueMemberSS{Value: []string{"a", "b"}},
		":ns":  &types.AttributeValueMemberNS{Value: []string{"9", "11.0"}},
		":l":   &types.AttributeValueMemberL{Value: []types.AttributeValue{S("new")}}, ":m": M1("k", S("v")), ":none": &types.AttributeValueMemberL{},
	}
}

// names are those that expressions of the script may use.
var names = map[string]string{"#doc": "doc", "#bc": "b.c", "#gone": "gone"}

// used are the placeholders that an expression names, since others are an error.
func used[V any](all map[string]V, text string) map[string]V {
	out := map[string]V{}
	for k, v := range all {
		for rest := text; ; {
			i := strings.Index(rest, k)
			if i < 0 {
				break
			}
			if rest = rest[i+len(k):]; rest == "" || !strings.ContainsAny(rest[:1], letters) {
				out[k] = v
				break
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (s *script) conditions() {
	if _, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{TableName: one, Item: full()}); err != nil {
		s.t.Fatal(err)
	}
	for _, text := range []string{
		"num = :half", "num <> :half", "num < :ten", "num > :ten", "num >= :half AND num <= :half", "num = :text", "num <> :text", "num > :text",
		"gone = :one", "gone <> :one", "gone < :one", ":one = gone", "text > :a", "bin > :bin",
		"num BETWEEN :one AND :big", "num BETWEEN :big AND :one", "num BETWEEN :one AND :text", "num BETWEEN gone AND :big",
		"num IN (:one, :half)", "num IN (:one)", "num IN ()", "attribute_exists(num)", "attribute_exists(gone)", "attribute_not_exists(#doc.gone)",
		"attribute_exists(#doc.#bc)", "attribute_exists(#doc.deep[1].x)", "attribute_exists(#doc.deep[2])", "attribute_type(num, :N)",
		"attribute_type(txt, :N)", "attribute_type(num, :Q)", "attribute_type(num, :one)",
		"begins_with(txt, :text)", "begins_with(bin, :bin)", "begins_with(num, :text)", "begins_with(txt, :one)", "begins_with(gone, :text)",
		"contains(txt, :text)", "contains(seq, :c)", "contains(seq, :one)", "contains(ss, :a)", "contains(ss, :one)", "contains(ns, :ten)",
		"contains(num, :one)", "contains(bin, :bin)",
		"size(txt) = :ten", "size(bin) > :one", "size(seq) < :one", "size(ss) > :one", "size(num) > :one", "size(gone) > :one", "size(#doc) > :one",
		"num = :half OR gone = :one AND gone = :one", "(num = :half OR gone = :one) AND gone = :one", "NOT num = :half", "NOT NOT num = :half",
		"NOT num = :one AND gone = :one", "not num = :one or gone = :one",
		"((num = :half))", "(num = :half) AND (txt = :a)", "num = num", "yes = :yes", "yes < :yes", "ss = :all", "ss = :ss", "seq[0] = :a", "seq[9] = :a",
		"", " ", "num =", "num = :half AND", "num == :half", "num", ":one", "num = :undefined", "#undefined = :one", "foo(num)", "SIZE(num) = :one",
		"size(num, txt) = :one",
		"begins_with(txt)", "attribute_exists(num, txt)", "attribute_exists(:one)", "name = :one", "Status = :one", "#doc.value = :one", "num = 1",
		"num = :half; txt = :a", "a.b. = :one", "size(num)", "NOT size(num)", "contains(:a, num)", "num = attribute_exists(txt)",
	} {
		_, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{
			TableName: one, Item: full(), ConditionExpression: &text, ExpressionAttributeNames: used(names, text), ExpressionAttributeValues: used(values(), text),
		})
		s.note("condition "+text, "holds", err)
	}
	s.placeholders()
}

func (s *script) placeholders() {
	for step, in := range map[string]dynamodb.PutItemInput{
		"a value in vain":        {ConditionExpression: aws.String("num = :one"), ExpressionAttributeValues: M{":one": N(1), ":two": N(2)}},
		"a name in vain":         {ConditionExpression: aws.String("attribute_exists(num)"), ExpressionAttributeNames: map[string]string{"#x": "x"}},
		"names alone":            {ExpressionAttributeNames: map[string]string{"#x": "x"}},
		"values alone":           {ExpressionAttributeValues: M{":x": N(1)}},
		"a name without a hash":  {ConditionExpression: aws.String("x = :one"), ExpressionAttributeNames: map[string]string{"x": "x"}},
		"a value without colon":  {ConditionExpression: aws.String("x = :one"), ExpressionAttributeValues: M{"one": N(1)}},
		"no names":               {ConditionExpression: aws.String("attribute_exists(x)"), ExpressionAttributeNames: map[string]string{}},
		"no values":              {ConditionExpression: aws.String("attribute_exists(x)"), ExpressionAttributeValues: M{}},
		"new values of a put":    {ReturnValues: types.ReturnValueAllNew},
		"a condition on nothing": {Item: M{"id": S("nobody")}, ConditionExpression: aws.String("attribute_exists(id)")},
		"no key":                 {Item: M{"v": N(1)}},
		"a key of another type":  {Item: M{"id": N(1)}},
		"an empty key":           {Item: M{"id": S("")}},
		"an empty text":          {Item: M{"id": S("empty"), "v": S("")}},
		"an empty set":           {Item: M{"id": S("empty"), "v": &types.AttributeValueMemberSS{Value: []string{}}}},
		"a doubled member":       {Item: M{"id": S("empty"), "v": &types.AttributeValueMemberNS{Value: []string{"1", "1.0"}}}},
		"a table that is not":    {TableName: aws.String("none"), Item: M{"id": S("x")}},
	} {
		if in.Item == nil {
			in.Item = full()
		}
		if in.TableName == nil {
			in.TableName = one
		}
		_, err := s.c.PutItem(s.t.Context(), &in)
		s.note(step, "put", err)
	}
}

func (s *script) updates() {
	for _, text := range []string{
		"SET num = :one", "set num = num + :one", "SET num = num - :half", "SET num = :one + num, txt = :a", "SET num = gone + :one",
		"SET num = txt + :one", "SET num = :a + :one",
		"SET gone = if_not_exists(gone, :one)", "SET num = if_not_exists(num, :one)", "SET num = if_not_exists(num, :one) + :one",
		"SET gone = if_not_exists(#gone, :one) + :ten",
		"SET seq = list_append(seq, :l)", "SET seq = list_append(:l, seq)", "SET seq = list_append(num, :l)",
		"SET gone = list_append(if_not_exists(gone, :none), :l)",
		"SET seq[1] = :one", "SET seq[9] = :one", "SET seq[0].x = :one", "SET #doc.a = :one", "SET #doc.#bc = :one", "SET #doc.new = :m",
		"SET #doc.new.k = :one", "SET #doc.deep[1].x = :a", "SET gone.k = :one", "SET txt.k = :one",
		"SET a = txt, txt = :a", "SET txt = :a, a = txt", "REMOVE txt", "REMOVE gone", "REMOVE seq[0], seq[2]", "REMOVE seq[9]",
		"REMOVE #doc.a, #doc.gone", "REMOVE gone.k", "REMOVE txt.k",
		"ADD num :one", "ADD gone :one", "ADD ss :ss", "ADD gone :ss", "ADD ss :one", "ADD ns :ns", "ADD txt :one", "ADD txt :a", "ADD num :l",
		"DELETE ss :ss", "DELETE ss :all", "DELETE gone :ss", "DELETE ns :ss", "DELETE ss :one",
		"SET num = :one REMOVE txt ADD gone :one DELETE ss :ss", "SET num = :one SET txt = :a", "ADD num :big",
		"SET num = :one, num = :ten", "SET #doc.a = :one, #doc = :m", "SET id = :a", "REMOVE id", "SET num", "SET num = ", "num = :one", "",
		"SET num = :one,", "SET name = :one", "SET num = size(txt)", "SET num = foo(txt)", "SET num = :undefined",
		"SET num = num + :one + :one", "SET num = (:one)", "SET num = attribute_exists(num)",
	} {
		for _, returns := range []types.ReturnValue{types.ReturnValueUpdatedNew, types.ReturnValueUpdatedOld, types.ReturnValueAllNew} {
			if _, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{TableName: one, Item: full()}); err != nil {
				s.t.Fatal(err)
			}
			out, err := s.c.UpdateItem(s.t.Context(), &dynamodb.UpdateItemInput{
				TableName: one, Key: M{"id": S("full")}, UpdateExpression: &text, ReturnValues: returns,
				ExpressionAttributeNames: used(names, text), ExpressionAttributeValues: used(values(), text),
			})
			if err != nil {
				s.note("update "+text, "", err)
				break
			}
			s.note("update "+text+" "+string(returns), showItem(out.Attributes), nil)
		}
	}
	out, err := s.c.UpdateItem(s.t.Context(), &dynamodb.UpdateItemInput{
		TableName: one, Key: M{"id": S("made")}, UpdateExpression: aws.String("ADD hits :one"), ExpressionAttributeValues: M{":one": N(1)}, ReturnValues: types.ReturnValueAllNew,
	})
	s.note("update what is not there", showItem(out.Attributes), err)
	_, err = s.c.UpdateItem(s.t.Context(), &dynamodb.UpdateItemInput{TableName: one, Key: M{"id": S("bare")}})
	s.note("update with nothing", "", err)
	old, err := s.c.DeleteItem(s.t.Context(), &dynamodb.DeleteItemInput{TableName: one, Key: M{"id": S("made")}, ReturnValues: types.ReturnValueAllOld})
	s.note("delete", showItem(old.Attributes), err)
	old, err = s.c.DeleteItem(s.t.Context(), &dynamodb.DeleteItemInput{TableName: one, Key: M{"id": S("made")}, ReturnValues: types.ReturnValueAllOld})
	s.note("delete again", showItem(old.Attributes), err)
	_, err = s.c.DeleteItem(s.t.Context(), &dynamodb.DeleteItemInput{
		TableName: one, Key: M{"id": S("made")}, ConditionExpression: aws.String("attribute_exists(id)"),
	})
	s.note("delete under a condition", "", err)
}

func (s *script) projections() {
	if _, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{TableName: one, Item: full()}); err != nil {
		s.t.Fatal(err)
	}
	for _, text := range []string{
		"num", "num, txt", "gone", "#doc.a", "#doc.#bc, #doc.deep[1].x", "seq[3], seq[1]", "seq[9]", "num, num", "#doc, #doc.a", "num,", "", "name",
		"num txt", "seq[a]",
	} {
		out, err := s.c.GetItem(s.t.Context(), &dynamodb.GetItemInput{
			TableName: one, Key: M{"id": S("full")}, ProjectionExpression: &text, ExpressionAttributeNames: used(names, text),
		})
		if err != nil {
			s.note("project "+text, "", err)
			continue
		}
		s.note("project "+text, showItem(out.Item), nil)
	}
	for step, key := range map[string]M{
		"get nothing": {"id": S("nobody")}, "get by too much": {"id": S("a"), "v": N(1)}, "get by another type": {"id": N(1)}, "get by another name": {"x": S("a")},
	} {
		out, err := s.c.GetItem(s.t.Context(), &dynamodb.GetItemInput{TableName: one, Key: key})
		if err != nil {
			s.note(step, "", err)
			continue
		}
		s.note(step, showItem(out.Item), nil)
	}
}

func (s *script) queries() {
	for _, n := range []string{"10", "9", "-1", "1e2", "0.5"} {
		for _, id := range []string{"a", "b"} {
			if _, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{TableName: two, Item: M{"id": S(id), "n": N(n), "v": S(id + n)}}); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	for _, b := range []string{"\x00", "\x00\x01", "\xff", "a", "é"} {
		if _, err := s.c.PutItem(s.t.Context(), &dynamodb.PutItemInput{
			TableName: blob, Item: M{"id": S("a"), "b": &types.AttributeValueMemberB{Value: []byte(b)}},
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, q := range []struct{ key, filter string }{
		{key: "id = :a"},
		{key: ":a = id"},
		{key: "id = :a AND n > :one"},
		{key: "n > :one AND id = :a"},
		{key: "id = :a AND n BETWEEN :one AND :ten"},
		{key: "id = :a AND n = :ten"},
		{key: "(id = :a) AND (n <= :ten)"},
		{key: "id = :c"},
		{key: "id > :a"},
		{key: "n = :one"},
		{key: "id = :a AND v = :a"},
		{key: "id = :a OR n = :one"},
		{key: "id = :a AND n <> :one"},
		{key: "id = :one"},
		{key: "id = :a AND begins_with(n, :a)"},
		{key: "id = :a AND n IN (:one)"},
		{key: "id = :a AND id = :a"},
		{key: "NOT id = :a"},
		{key: "id = :a AND attribute_exists(n)"},
		{key: ""},
		{key: "id = :a", filter: "contains(v, :N)"},
		{key: "id = :a", filter: "begins_with(v, :a) AND v > :a"},
		{key: "id = :a", filter: "n > :one"},
	} {
		s.query("query "+q.key+" "+q.filter, q.key, q.filter, true, nil)
	}
	s.query("query backward", "id = :a", "", false, nil)
	s.query("query backward by two", "id = :a", "", false, aws.Int32(2))
	s.query("query by two", "id = :a AND n >= :one", "", true, aws.Int32(2))
	s.query("query by two and filter", "id = :a", "v = :a", true, aws.Int32(2))
	s.query("query by none", "id = :a", "", true, aws.Int32(0))
	out, err := s.c.Query(s.t.Context(), &dynamodb.QueryInput{
		TableName: blob, KeyConditionExpression: aws.String("id = :a"), ExpressionAttributeValues: M{":a": S("a")},
	})
	var all []string
	for _, it := range out.Items {
		all = append(all, show(it["b"]))
	}
	s.note("binaries in order", all, err)
	counted, err := s.c.Query(s.t.Context(), &dynamodb.QueryInput{
		TableName: two, KeyConditionExpression: aws.String("id = :a"), ExpressionAttributeValues: M{":a": S("a")}, Select: types.SelectCount,
	})
	s.note("count", fmt.Sprint(counted.Count, len(counted.Items)), err)
}

// query notes all pages.
func (s *script) query(step, key, filter string, forward bool, limit *int32) {
	in := &dynamodb.QueryInput{
		TableName: two, KeyConditionExpression: &key, ScanIndexForward: &forward, Limit: limit, ExpressionAttributeValues: used(values(), key+" "+filter),
	}
	if filter != "" {
		in.FilterExpression = &filter
	}
	text := ""
	for p := dynamodb.NewQueryPaginator(s.c, in, func(o *dynamodb.QueryPaginatorOptions) { o.Limit = aws.ToInt32(limit) }); p.HasMorePages(); {
		out, err := p.NextPage(s.t.Context())
		if err != nil {
			s.note(step, "", err)
			return
		}
		text += fmt.Sprintf("page %d/%d:", out.Count, out.ScannedCount)
		for _, it := range out.Items {
			text += " " + showItem(it)
		}
		text += " then " + showItem(out.LastEvaluatedKey) + "; "
	}
	s.note(step, text, nil)
}

func (s *script) scans() {
	for step, in := range map[string]dynamodb.ScanInput{
		"scan":                     {},
		"scan by three":            {Limit: aws.Int32(3)},
		"scan and filter":          {FilterExpression: aws.String("n > :ten"), ExpressionAttributeValues: M{":ten": N(9)}},
		"scan and project":         {ProjectionExpression: aws.String("v")},
		"scan a segment of none":   {Segment: aws.Int32(0)},
		"scan a segment too far":   {Segment: aws.Int32(2), TotalSegments: aws.Int32(2)},
		"scan a bad filter":        {FilterExpression: aws.String("n >")},
		"scan the middle of three": {Limit: aws.Int32(3), FilterExpression: aws.String("v = :v"), ExpressionAttributeValues: M{":v": S("a9")}},
	} {
		in.TableName = two
		s.note(step, s.all(&in), nil)
	}
	text := ""
	for i := range int32(3) {
		text += s.all(&dynamodb.ScanInput{TableName: two, Segment: &i, TotalSegments: aws.Int32(3)}) + " "
	}
	parts := strings.Fields(text)
	slices.Sort(parts)
	s.note("scan by segments", parts, nil)
}

// all is what a scan finds on all pages, sorted, since the order is the server's own.
func (s *script) all(in *dynamodb.ScanInput) string {
	var found []string
	for p := dynamodb.NewScanPaginator(s.c, in, func(o *dynamodb.ScanPaginatorOptions) { o.Limit = aws.ToInt32(in.Limit) }); p.HasMorePages(); {
		out, err := p.NextPage(s.t.Context())
		if err != nil {
			var api smithy.APIError
			if errors.As(err, &api) {
				return api.ErrorCode() + ": " + message(api)
			}
			return err.Error()
		}
		for _, it := range out.Items {
			found = append(found, strings.ReplaceAll(showItem(it), " ", ","))
		}
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

func (s *script) batches() {
	ctx := s.t.Context()
	put := func(id string) types.WriteRequest {
		return types.WriteRequest{PutRequest: &types.PutRequest{Item: M{"id": S(id), "v": S(id)}}}
	}
	remove := func(id string) types.WriteRequest {
		return types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: M{"id": S(id)}}}
	}
	var many []types.WriteRequest
	for i := range 26 {
		many = append(many, put(fmt.Sprint("m", i)))
	}
	for _, b := range []struct {
		step string
		rs   []types.WriteRequest
	}{
		{"write many", many[:25]},
		{"write too many", many},
		{"write and delete", []types.WriteRequest{put("w1"), remove("m0"), remove("nobody")}},
		{"write twice", []types.WriteRequest{put("w1"), remove("w1")}},
		{"write none", nil},
	} {
		out, err := s.c.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{"one": b.rs}})
		if err != nil {
			s.note(b.step, "", err)
			continue
		}
		s.note(b.step, len(out.UnprocessedItems), nil)
	}
	for step, keys := range map[string][]M{
		"get many": {{"id": S("m1")}, {"id": S("nobody")}, {"id": S("w1")}}, "get twice": {{"id": S("m1")}, {"id": S("m1")}},
		"get none": {}, "get a bad key": {{"x": S("m1")}},
	} {
		out, err := s.c.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{"one": {Keys: keys}}})
		if err != nil {
			s.note(step, "", err)
			continue
		}
		var found []string
		for _, it := range out.Responses["one"] {
			found = append(found, showItem(it))
		}
		slices.Sort(found)
		s.note(step, found, nil)
	}
}

func (s *script) limits() {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for _, l := range []struct {
		step string
		item M
	}{
		{"an item of 400 KB", M{"id": S("big"), "v": S(strings.Repeat("x", 400<<10-6))}},
		{"an item beyond 400 KB", M{"id": S("big"), "v": S(strings.Repeat("x", 400<<10-5))}},
		{"a key of 2,048", M{"id": S(strings.Repeat("k", 2048))}},
		{"a key of 2,049", M{"id": S(strings.Repeat("k", 2049))}},
	} {
		_, err := s.c.PutItem(ctx, &dynamodb.PutItemInput{TableName: one, Item: l.item})
		s.note(l.step, "put", err)
	}
	_, err := s.c.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: two})
	s.note("delete the table", "", err)
	for err == nil {
		_, err = s.c.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: two})
	}
	s.note("describe what is gone", "", err)
}
