package decode

import (
	"fmt"
	"sync"
	"testing"
)

func TestPatterns(t *testing.T) {
	b := newBots("# comment\nbot\n!cubot\n^curl/\nend$\n^whole$\n!Xbo\nspider\nider x\n")
	for agent, want := range map[string]bool{
		"": false, "bot": true, "RoBoTs": true, "CUBOT X18": false, "cubot (bot)": true, "cubotbot": true, "xbot": true,
		"curl/7": true, "x curl/7": false, "the END": true, "the end.": false, "whole": true, "a whole": false, "whole.": false,
		"spide": false, "spidspider": true, "spider x": true, "bo": false, "\x00\xffbot": true, "\x00": false,
	} {
		if got := b.match(agent); got != want {
			t.Errorf("%q: got %v, want %v", agent, got, want)
		}
		for _, time := range []string{"first", "second"} {
			if b.judge(agent) != want {
				t.Errorf("%q: the %s verdict is wrong", agent, time)
			}
		}
	}
}

func TestPeopleAndCrawlersAreToldApart(t *testing.T) {
	b := newBots(crawlers)
	for agent, want := range map[string]bool{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36":                                      false,
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91":                    false,
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Safari/605.1.15":                                false,
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Mobile/15E148 Safari/604.1":              false,
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/21B74 [FBAN/FBIOS;FBAV/441.0.0.27.105]":        false,
		"Mozilla/5.0 (Linux; Android 10; CUBOT_X18_Plus) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36":                         false,
		"Mozilla/5.0 (Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.7444.142 Mobile Safari/537.36": false,
		"Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:27.0) Gecko/20100101 Firefox/27.0":                                                                         false,
		"Mozilla/5.0 (X11; Linux x86_64; rv:24.0) Gecko/20100101 Thunderbird/24.2.0 Lightning/2.6.4":                                                           false,
		"Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; WOW64; Trident/5.0; chromeframe/19.0.1084.52)":                                                     false,
		"Dalvik/1.6.0 (Linux; U; Android 4.2.2; A114 Build/JDQ39)":                                                                                             false,
		"fuboTV/4.75.0 (Linux;Android 9; AFTDCT31 Build/PS7664.3772N) FuboPlayer/v1.34.0":                                                                      false,
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)":                                                                             true,
		"Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)":                                               true,
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15 (Applebot/0.1)":                 true,
		"Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)":                                                                  true,
		"Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)":                                                                  true,
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36":                                        true,
		"facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)":                                                                            true,
		"UniversalFeedParser/4.2-pre-314-svn +http://feedparser.org/":                                                                                          true,
		"Tiny Tiny RSS/1.11 (http://tt-rss.org/)":                                                                                                              true,
		"Mozilla/5.0 (compatible; Ezooms/1.0; help@moz.com)":                                                                                                   true,
		"Mozilla/5.0 (compatible; 008/0.83; http://www.80legs.com/webcrawler.html) Gecko/2008032620":                                                           true,
		"python-requests/2.31.0": true, "curl/8.4.0": true, "Wget/1.21.4": true, "Go-http-client/2.0": true, "Java/1.8.0_291": true, "python-httpx/0.16.1": true,
		"Apache-HttpClient/4.5.13 (Java/11.0.20)": true, "Amazon-Route53-Health-Check-Service (ref x; report http://amzn.to/1vsZADi)": true, "ELB-HealthChecker/2.0": true,
	} {
		if got := b.judge(agent); got != want {
			t.Errorf("%s: got %v, want %v", agent, got, want)
		}
	}
}

func TestVerdictsAreSharedByGoroutines(t *testing.T) {
	b := newBots("bot\n")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100_000 {
				if bot := i%3 == 0; b.judge(fmt.Sprintf("agent %d %v", i%5000, map[bool]string{true: "bot", false: "man"}[bot])) != bot {
					t.Errorf("agent %d: wrong", i)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkMatch is what an agent costs that was not seen before.
func BenchmarkMatch(b *testing.B) {
	bots := newBots(crawlers)
	agent := "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
	b.ReportAllocs()
	for b.Loop() {
		bots.match(agent)
	}
}

// BenchmarkNewBots is what a pipeline pays once.
func BenchmarkNewBots(b *testing.B) {
	for b.Loop() {
		newBots(crawlers)
	}
}

func BenchmarkLookup(b *testing.B) {
	names := []string{
		"event_id", "event_type", "event_time", "user_id", "session_id", "item_id", "url", "referrer", "user_agent", "ip", "country",
		"price", "currency", "quantity", "device", "ab", "scroll",
	}
	nodes := map[string]*node{}
	for _, name := range wellKnownSchema().Columns {
		nodes[name.Name] = &node{}
	}
	t := newTable(nodes)
	b.Run("table", func(b *testing.B) {
		i := 0
		for b.Loop() {
			t.find(names[i%len(names)])
			i++
		}
	})
	b.Run("map", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if nodes[names[i%len(names)]] == nil {
				i++
			}
			i++
		}
	})
}
