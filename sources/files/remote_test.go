package files

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/faults"
	"github.com/millrace-io/millrace/testenv/s3"
)

// bucket is a server's bucket behind a proxy that makes requests fail.
func bucket(t *testing.T, rate float64) (objects.Store, *faults.Proxy) {
	server, err := s3.Start(t.Context(), t.TempDir(), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	for k, v := range server.Env(server.URL()) {
		t.Setenv(k, v)
	}
	store, err := objects.Open(t.Context(), "s3://lake", objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := faults.New(server.URL(), faults.Options{Rate: rate, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	for k, v := range server.Env(front.URL) {
		t.Setenv(k, v)
	}
	return store, proxy
}

func put(t *testing.T, store objects.Store, key, content string) {
	t.Helper()
	if err := store.Put(t.Context(), key, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func TestObjectsAreReadAsFilesAre(t *testing.T) {
	store, _ := bucket(t, 0.2) // one request in five fails
	large := joined(numbered(0, 250_000))
	put(t, store, "raw/2010/a.jsonl.gz", gzipOf(t, joined(numbered(0, 1000))))
	put(t, store, "raw/2011/b", large)
	put(t, store, "raw/_SUCCESS", "not this\n")
	put(t, store, "rawer/c", "not this\n")
	put(t, store, "other/2012/c.csv", "id\n1\n2\n")
	put(t, store, "other/2012/c.txt", "not this\n")
	random := newRandom(t)
	w := newWorld(t, Config{Paths: []string{"s3://lake/raw/", "s3://lake/other/*/*.csv"}})
	w.every = 20_000
	for range 4 {
		at := 1 + random.IntN(200_000)
		w.crash = func(_ string, n int) bool { return n == at }
		if err := w.runFor(); err != nil && !errors.Is(err, errCrash) && !strings.Contains(err.Error(), "500") && !strings.Contains(err.Error(), "503") {
			t.Logf("Run: %v", err)
		}
	}
	w.crash = nil
	err := w.runFor()
	for range 20 { // a listing that fails ends the run
		if err != nil {
			err = w.runFor()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	w.holds("s3://lake/raw/2010/a.jsonl.gz", numbered(0, 1000)...)
	w.holds("s3://lake/raw/2011/b", numbered(0, 250_000)...)
	w.holds("s3://lake/other/2012/c.csv", "id", "1", "2")
	w.only("s3://lake/raw/2010/a.jsonl.gz", "s3://lake/raw/2011/b", "s3://lake/other/2012/c.csv")
}

func TestChangesOfObjectsAreNoticed(t *testing.T) {
	store, _ := bucket(t, 0)
	put(t, store, "raw/a", "one\ntwo\n")
	w := newWorld(t, Config{Paths: []string{"s3://lake/raw/a"}})
	w.finish()
	put(t, store, "raw/a", "one\ntwo\nthree\n")
	w.finish()
	w.holds("s3://lake/raw/a", "one", "two", "three")
	w.readAgain()
	put(t, store, "raw/a", "ONE\ntwo\nthree\n")
	w.readAgain("s3://lake/raw/a")
	w.fails("s3://lake/raw/a", "has changed", "on_change")

	put(t, store, "raw/b", joined(numbered(0, 10)))
	w = newWorld(t, Config{Paths: []string{"s3://lake/raw/b"}})
	w.crash = func(_ string, n int) bool { return n == 8 }
	w.runFor()
	w.crash = nil
	if err := store.Delete(t.Context(), "raw/b"); err != nil {
		t.Fatal(err)
	}
	put(t, store, "raw/c", "c\n")
	w.cfg.Paths = []string{"s3://lake/raw/"}
	if err := w.fails("s3://lake/raw/b"); !errors.Is(err, stream.ErrRetention) {
		t.Errorf("%v is not ErrRetention", err)
	}
}

func TestObjectThatIsReplacedOrDeletedWhileItIsReadIsAnError(t *testing.T) {
	store, _ := bucket(t, 0)
	for text, change := range map[string]func(){
		"replaced": func() { put(t, store, "a", strings.Repeat(strings.Repeat("x", 4<<10)+"\n", 4<<10)) },
		"deleted": func() {
			if err := store.Delete(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		},
	} {
		put(t, store, "a", strings.Repeat(strings.Repeat("y", 4<<10)+"\n", 4<<10))
		w := newWorld(t, Config{Paths: []string{"s3://lake/a"}})
		w.every = 0
		changed := false
		w.crash = func(_ string, n int) bool {
			if n > 10 && !changed {
				changed = true
				change()
			}
			return false
		}
		err := w.fails("s3://lake/a", text)
		if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
			t.Errorf("%v is not fatal", err)
		}
	}
}

func TestNewObjectsAreFound(t *testing.T) {
	store, _ := bucket(t, 0)
	w := newWorld(t, Config{Follow: true, Paths: []string{"s3://lake/raw/"}})
	stop := w.start()
	put(t, store, "raw/a", "a\n")
	w.ended("s3://lake/raw/a")
	put(t, store, "raw/b", "b")
	w.ended("s3://lake/raw/b")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("s3://lake/raw/b", "b")
	w.readAgain()
}
