package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKeyRotation goes from one key to another with a client that has both in its
// list, then loses the old one.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	tree, keys, dir := shortDir(t), shortDir(t), shortDir(t)
	public := map[string]string{}
	for _, name := range []string{"old", "new"} {
		_, public[name] = keygen(t, filepath.Join(keys, name))
	}
	flag := func(name string) []string { return []string{"-key", filepath.Join(keys, name+".key")} }
	// An agent has the new key, the old one is a file.
	agent := []string{
		"-sign-with", fmt.Sprintf("'%s' sign -key '%s'", ays, filepath.Join(keys, "new.key")),
		"-public", filepath.Join(keys, "new.pub"),
	}
	publishes := func(serial int, flags ...string) {
		t.Helper()
		write(t, tree, map[string]node{"version": file(serial)})
		publish(t, dir, "e2e|app(1)", tree, flags...)
	}
	c, mount := appClient(t, serveStore(t, dir).url())
	c.stor = fmt.Sprintf("key = [%q, %q]", public["old"], public["new"])
	shows := func(serial int64) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("serial %d is shown", serial), func() bool {
			return c.status().Mounts[0].Serial == serial
		})
		wantContent(t, 20*time.Second, filepath.Join(mount, "version"), content(int(serial)))
	}

	for i, flags := range [][]string{flag("old"), append(flag("old"), agent...), agent} {
		publishes(i+1, flags...)
		c.start()
		shows(int64(i + 1))
		if m := c.status().Mounts[0]; m.Problem != "" || !m.Fresh {
			t.Errorf("serial %d: %+v", i+1, m)
		}
		c.stop()
	}
	for _, w := range c.warnings() {
		if strings.Contains(w, "signed") || strings.Contains(w, "refused") {
			t.Errorf("a client that has both keys warns: %s", w)
		}
	}

	// The old key was lost, and somebody signs with it.
	publishes(4, flag("old")...)
	c.stor = fmt.Sprintf("key = [\"%s until 3\", %q]", public["old"], public["new"])
	c.start()
	const why = "which is good until serial 3"
	eventually(t, 30*time.Second, "the head is refused", func() bool {
		return strings.Contains(c.status().Mounts[0].Problem, why)
	})
	shows(3)
	c.wantStatus(0, "NOT THE NEWEST", "serial 4 is signed by old+", why)
	c.stop()
	if log := strings.Join(c.warnings(), ""); !strings.Contains(log, why) {
		t.Errorf("the log does not tell of the refusal:\n%s", log)
	}

	// A machine that never saw another head has none to show.
	fresh, _ := appClient(t, c.storeURL)
	fresh.stor = c.stor
	fresh.refuses(20*time.Second, why)

	// The publisher goes on with the key that is left.
	publishes(5, agent...)
	c.start()
	shows(5)
	if m := c.status().Mounts[0]; m.Problem != "" {
		t.Errorf("the mount: %+v", m)
	}
	c.stop()
}
