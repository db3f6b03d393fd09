package clicks

import "fmt"

// Agents are n different user agents as browsers and bots send them: the common ones first, then ever older versions. Every
// seventh is a bot and says so. They need no escapes in JSON.
func Agents(n int) []string {
	agents := make([]string, n)
	for i := range agents {
		if i%7 == 6 {
			agents[i] = bot(i / 7)
		} else {
			agents[i] = browser(i - i/7)
		}
	}
	return agents
}

// browser is number n of all: families in turn, in each the systems, in each the versions.
func browser(n int) string {
	family, n := n%6, n/6
	switch family {
	case 0:
		return fmt.Sprintf("Mozilla/5.0 (%s) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%s Safari/537.36", desktop(&n), chrome(n))
	case 1:
		return fmt.Sprintf("Mozilla/5.0 (Linux; Android %s) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%s Mobile Safari/537.36", phone(&n), chrome(n))
	case 2:
		major, minor := take(&n, 5), take(&n, 7)
		return fmt.Sprintf("Mozilla/5.0 (iPhone; CPU iPhone OS %d_%d like Mac OS X) AppleWebKit/605.1.%d (KHTML, like Gecko) Version/%d.%d Mobile/15E148 Safari/604.1",
			18-major, 6-minor, 15+n, 18-major, 6-minor)
	case 3:
		system, major := desktop(&n), take(&n, 60)
		return fmt.Sprintf("Mozilla/5.0 (%s; rv:%d.0) Gecko/20100101 Firefox/%d.%d", system, 135-major, 135-major, n)
	case 4:
		return fmt.Sprintf("Mozilla/5.0 (%s) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%s Safari/537.36 Edg/%s", desktop(&n), chrome(n), chrome(n))
	}
	model := phone(&n)
	return fmt.Sprintf("Mozilla/5.0 (Linux; Android %s) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/%d.%d Chrome/%s Mobile Safari/537.36", model, 27-n%8, n/8%2, chrome(n))
}

// take is the last digit of n to a base, and takes it off.
func take(n *int, base int) int {
	digit := *n % base
	*n /= base
	return digit
}

func chrome(n int) string {
	major := take(&n, 50)
	if n == 0 {
		return fmt.Sprintf("%d.0.0.0", 133-major)
	}
	return fmt.Sprintf("%d.0.%d.%d", 133-major, 6943-61*major, 30+n)
}

func desktop(n *int) string {
	return []string{
		"Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64", "Windows NT 6.1; Win64; x64",
		"Windows NT 10.0; WOW64", "X11; Ubuntu; Linux x86_64", "Macintosh; Intel Mac OS X 10_14_6", "X11; CrOS x86_64 14541.0.0",
	}[take(n, 8)]
}

func phone(n *int) string {
	model := []string{
		"SM-S918B", "Pixel 8", "SM-A546B", "23021RAAEG", "CPH2449", "M2101K6G", "SM-G991B", "Pixel 6a", "moto g(60)", "SM-A136U",
		"RMX3085", "LM-Q730", "SM-T870", "V2050", "ASUS_I005D", "Nokia G21",
	}[take(n, 16)]
	return fmt.Sprintf("%d; %s", 15-take(n, 6), model)
}

func bot(n int) string {
	forms := []string{
		"Mozilla/5.0 (compatible; Googlebot/2.%d; +http://www.google.com/bot.html)", "Mozilla/5.0 (compatible; bingbot/2.%d; +http://www.bing.com/bingbot.htm)",
		"Mozilla/5.0 (compatible; YandexBot/3.%d; +http://yandex.com/bots)", "Mozilla/5.0 (compatible; AhrefsBot/7.%d; +http://ahrefs.com/robot/)",
		"Mozilla/5.0 (compatible; SemrushBot/7.%d~bl; +http://www.semrush.com/bot.html)", "Mozilla/5.0 (compatible; DotBot/1.%d; +https://opensiteexplorer.org/dotbot)",
		"Mozilla/5.0 (compatible; Baiduspider/2.%d; +http://www.baidu.com/search/spider.html)", "DuckDuckBot/1.%d; (+http://duckduckgo.com/duckduckbot.html)",
		"Mozilla/5.0 (compatible; MJ12bot/v1.%d; http://mj12bot.com/)", "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.%d; +https://openai.com/gptbot)",
		"CCBot/2.%d (https://commoncrawl.org/faq/)", "Twitterbot/1.%d", "LinkedInBot/1.%d (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
		"Mozilla/5.0 (Linux; Android 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 (compatible; Bytespider/1.%d)",
		"Mozilla/5.0 (compatible; PetalBot/1.%d;+https://webmaster.petalsearch.com/site/petalbot)", "Screaming Frog SEO Spider/19.%d",
	}
	return fmt.Sprintf(forms[take(&n, len(forms))], n)
}
