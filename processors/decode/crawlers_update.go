//go:build ignore

// This program makes crawlers.txt:
//
//	go run crawlers_update.go <upstream revision> < crawler-user-agents.json > new.txt && mv new.txt crawlers.txt
//
// crawlers_rules.txt has the general rules, and with - in front what is left out of the list because people's browsers have it
// too. It writes every regular expression of the list as the few texts that it stands for, and leaves out those that the general
// rules cover. What it cannot write that way it tells on standard error.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

const head = `# What crawlers, libraries and tools call themselves: a part of the user agent, in any case. ^ ties it to the beginning, $ to
# the end. A line with ! in front is an exception: an agent does not match by what is the end of that.
#
# The last part is made by crawlers_update.go of github.com/monperrus/crawler-user-agents, revision
# %s. Its licence:
#
# The MIT License (MIT). Copyright (c) 2017 Martin Monperrus. Permission is hereby granted, free of charge, to any person
# obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without
# restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or
# sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
# conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions
# of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
# LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
# AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
# OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

# General rules, by hand.
`

func main() {
	var upstream []struct{ Pattern string }
	if err := json.NewDecoder(os.Stdin).Decode(&upstream); err != nil {
		log.Fatal(err)
	}
	rules, err := os.ReadFile("crawlers_rules.txt")
	if err != nil {
		log.Fatal(err)
	}
	general := strings.Split(strings.TrimSpace(string(rules)), "\n")
	var all []string
	for _, u := range upstream {
		re, err := syntax.Parse(u.Pattern, syntax.Perl)
		if err != nil {
			log.Fatal(err)
		}
		texts, ok := expand(re.Simplify())
		if !ok {
			texts = nil
			if !covered(general, strings.ToLower(u.Pattern)) {
				log.Printf("not written: %s", u.Pattern)
			}
		}
		for _, text := range texts {
			text = strings.ToLower(text)
			switch {
			case covered(general, text) || slices.Contains(general, "-"+text):
			case len(text) < 6 && text[0] >= '0' && text[0] != '^':
				all = append(all, "^"+text, " "+text) // not the end of a longer word: Lightning/1.0
			default:
				all = append(all, text)
			}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	fmt.Printf(head, os.Args[1])
	for _, rule := range general {
		if rule[0] != '-' {
			fmt.Println(rule)
		}
	}
	fmt.Println("\n# crawler-user-agents")
	for _, text := range all {
		if !slices.ContainsFunc(all, func(other string) bool { return other != text && strings.Contains(text, other) }) {
			fmt.Println(text)
		}
	}
}

// covered says that one of the rules matches every agent that has text in it.
func covered(rules []string, text string) bool {
	return slices.ContainsFunc(rules, func(rule string) bool { return rule[0] != '!' && rule[0] != '-' && strings.Contains(text, rule) })
}

// expand lists all texts that re matches; false if they are very many.
func expand(re *syntax.Regexp) ([]string, bool) {
	switch re.Op {
	case syntax.OpEmptyMatch:
		return []string{""}, true
	case syntax.OpLiteral:
		return []string{string(re.Rune)}, true
	case syntax.OpBeginText, syntax.OpBeginLine:
		return []string{"^"}, true
	case syntax.OpEndText, syntax.OpEndLine:
		return []string{"$"}, true
	case syntax.OpCharClass:
		var texts []string
		for i := 0; i < len(re.Rune); i += 2 {
			for r := re.Rune[i]; r <= re.Rune[i+1]; r++ {
				if len(texts) > 10 {
					return nil, false
				}
				texts = append(texts, string(unicode.ToLower(r)))
			}
		}
		return texts, true
	case syntax.OpCapture:
		return expand(re.Sub[0])
	case syntax.OpQuest:
		texts, ok := expand(re.Sub[0])
		return append(texts, ""), ok
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			texts, ok := expand(sub)
			if !ok {
				return nil, false
			}
			all = append(all, texts...)
		}
		return all, true
	case syntax.OpConcat:
		all := []string{""}
		for _, sub := range re.Sub {
			texts, ok := expand(sub)
			if !ok {
				return nil, false
			}
			var longer []string
			for _, before := range all {
				for _, text := range texts {
					longer = append(longer, before+text)
				}
			}
			all = longer
		}
		return all, len(all) < 200
	}
	return nil, false
}
