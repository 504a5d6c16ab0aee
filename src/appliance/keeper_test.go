//go:build appliance

package appliance

import (
	"fmt"
	"strings"
	"testing"
)

// TestApplianceKernelThatForgets kills and replaces what serves on Debian's kernel.
// One older than 6.9 does not repeat requests: then the mount is made afresh, and
// that is said.
func TestApplianceKernelThatForgets(t *testing.T) {
	m := boot(t, guest{kind: "busybox", lay: appliance(t, "busybox", newStore(t)), network: true})
	release := m.run("uname -r")
	var major, minor int
	if _, err := fmt.Sscanf(strings.TrimSpace(release), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("%v: %q", err, release)
	}
	forgets := major < 6 || major == 6 && minor < 9
	t.Logf("kernel %s forgets: %v", strings.TrimSpace(release), forgets)
	works := func() {
		t.Helper()
		if _, code := m.try("for n in $(seq 100); do (cd /opt/tools && sha256sum -c SUMS) 2>/dev/null && break; sleep 0.2; done; [ \"$n\" != 100 ]"); code != 0 {
			log, _ := m.try("cat /var/log/aysfs.log /proc/mounts; ps")
			t.Fatalf("the mount does not come back:\n%s", log)
		}
		if out := m.run("grep -c ' /opt/tools ' /proc/mounts"); strings.TrimSpace(out) != "1" {
			t.Errorf("%s mounts lie on one another", strings.TrimSpace(out))
		}
	}
	mount := func() string { return m.run("grep ' /opt/tools ' /proc/self/mountinfo | cut -d' ' -f1,3") }
	works()
	for i, replace := range []string{
		`kill -9 $(ays status -json | sed -n 's/^  "pid": \([0-9]*\),.*/\1/p')`,
		"cp /usr/sbin/aysfs /usr/sbin/new && mv /usr/sbin/new /usr/sbin/aysfs && /etc/init.d/aysfs upgrade",
	} {
		before := mount()
		m.run(replace)
		// The kernel remembers enough of a mount that nobody serves for much to work.
		m.run(fmt.Sprintf("until ays status | grep -q '; restarted 1 times after it died, upgraded %d times' && grep -q ' /opt/tools ' /proc/mounts; do sleep 0.2; done", i))
		works()
		if !forgets && mount() != before { // else another may get the same number
			t.Errorf("%s: it was mount %s, and is %s", replace, before, mount())
		}
		if out, _ := m.try("grep -c 'does not repeat requests' /var/log/aysfs.log"); forgets && strings.TrimSpace(out) != fmt.Sprint(i+1) {
			t.Errorf("%s: the log tells of it %s times, want %d", replace, strings.TrimSpace(out), i+1)
		}
	}
	m.run("/etc/init.d/aysfs stop")
	m.powerOff()
}
