package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// TestKeyList: heads signed by any of a list of keys are mounted, and by a key
// that is good until some serial up to that.
func TestKeyList(t *testing.T) {
	t.Parallel()
	tree, _ := smallTree(t)
	oldKey, old := keygen(t, filepath.Join(shortDir(t), "old"))
	nextKey, next := keygen(t, filepath.Join(shortDir(t), "next"))
	store := newStore(t, "e2e|app(1)", tree, "-key", oldKey)
	start := func(key string, mounted bool) {
		t.Helper()
		c, mount := appClient(t, store.url())
		c.stor = "key = " + key
		if mounted {
			c.start()
			sameTree(t, tree, mount)
			c.stop()
			return
		}
		c.refuses(30*time.Second, "not signed")
	}
	both := fmt.Sprintf("[%q, %q]", next, old)
	limited := fmt.Sprintf("[%q, %q]", next, old+" until 1")
	start(both, true)
	start(limited, true)
	start(fmt.Sprintf("[%q]", next), false)
	write(t, tree, map[string]node{"new": file(10)})
	publish(t, store.dir, "e2e|app(1)", tree, "-key", oldKey) // serial 2
	start(both, true)
	start(limited, false)
	publish(t, store.dir, "e2e|app(1)", tree, "-key", nextKey) // serial 3
	start(limited, true)
}

// TestGCUnderAClient: a client on a head that is kept reads all of it, after a gc
// too, and takes up what a rollback publishes.
func TestGCUnderAClient(t *testing.T) {
	t.Parallel()
	first, _ := smallTree(t)
	second, third := shortDir(t), shortDir(t)
	write(t, second, map[string]node{"second": file(2 << 20)})
	write(t, third, map[string]node{"third": file(1000)})
	const id = "e2e|app(1)"
	store := newStore(t, id, third) // serial 1, which is not kept
	publish(t, store.dir, id, first)
	c := newClient(t, store.url())
	c.main = `refresh = "24h"`
	mount := c.mount(id, "prefetch = 0")
	c.start()
	publish(t, store.dir, id, second)
	run(t, time.Minute, ays, "gc", "-store", store.dir, "-keep", "2")
	sameTree(t, first, mount)
	c.stop()
	run(t, time.Minute, ays, "rollback", "-store", store.dir, "-id", id, "-serial", "2")
	run(t, time.Minute, ays, "gc", "-store", store.dir, "-keep", "1")
	cold := newClient(t, store.url())
	again := cold.mount(id)
	cold.start()
	sameTree(t, first, again)
	if serial := cold.status().Mounts[0].Serial; serial != 4 {
		t.Errorf("serial %d after a rollback of 3 to 2", serial)
	}
	cold.stop()
}
