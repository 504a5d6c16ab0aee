//go:build appliance

package appliance

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// treeID is the tree that guests mount.
const treeID = "appliance|tools(1)"

// newStore serves a store, here, whose tree has a program and a script that runs
// it. Guests reach it at the URL.
func newStore(t *testing.T) (url string) {
	t.Helper()
	tree, store := t.TempDir(), t.TempDir()
	shell(t, `
		mkdir -p "$2/bin" "$2/lib"
		cp "$1/bin/busybox" "$2/bin"
		printf '#!/bin/sh\necho hello from "$(/opt/tools/bin/busybox basename "$0")"\n' >"$2/bin/greet"
		chmod 755 "$2/bin/greet"
		dd if=/dev/urandom of="$2/lib/large" bs=1M count=3 status=none
		cd "$2" && sha256sum bin/busybox lib/large >SUMS
	`, kept(t, "testdata/kernel.sh"), tree)
	run(t, time.Minute, ays, "publish", "-store", store, "-id", treeID, tree)
	s := httptest.NewServer(http.FileServer(http.Dir(store)))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://10.0.2.2:" + port // the guest's word for this machine's loopback
}

// appliance is what is laid over a guest's root: the release, with a config that
// mounts the tree, through a cache in the guest.
func appliance(t *testing.T, kind, url string) string {
	t.Helper()
	dir := t.TempDir()
	shell(t, `
		top=$1 bin=$2 kind=$3 to=$4
		cp -a "$top/rootfs/." "$to"
		mkdir -p "$to/usr/sbin" "$to/usr/bin" "$to/etc/init.d" "$to/etc/systemd/system"
		cp "$bin/aysfs" "$bin/ays_cache" "$to/usr/sbin"
		cp "$bin/ays" "$to/usr/bin"
		case $kind in
		openrc) cp "$top/init/openrc/"* "$to/etc/init.d" ;;
		systemd) cp "$top/init/systemd/"* "$to/etc/systemd/system" ;;
		*) cp "$top/init/aysfs" "$top/init/ays_cache" "$to/etc/init.d" ;;
		esac
	`, top, filepath.Dir(aysfs), kind, dir)
	config := fmt.Sprintf(`[main]
id = "guest"
io_timeout = "10s"

[[cache.grid]]
url = "http://127.0.0.1:8080"

[[ays.stor]]
name = "here"
url = %q

[[mount_files]]
name = "tools"
path = "/opt/tools"
ays.id = %q
stor.name = "here"
wait = "20s"
prefetch = 2
`, url, treeID)
	if err := os.WriteFile(filepath.Join(dir, "etc/aysfs/aysfs.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestApplianceBoots lays what is released over machines with every kind of
// init, and uses it there.
func TestApplianceBoots(t *testing.T) {
	for _, kind := range []string{"busybox", "sysvinit", "openrc", "systemd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := newStore(t)
			g := guest{kind: kind, lay: appliance(t, kind, url), network: true}
			if kind != "busybox" {
				g.disk = newDisk(t, kind)
			}
			m := boot(t, g)
			service := func(daemon, word string) string {
				if kind == "systemd" {
					if word == "status" {
						word = "is-active"
					}
					return "systemctl " + word + " " + daemon
				}
				return "/etc/init.d/" + daemon + " " + word
			}
			// All of it was started at boot.
			m.run(service("aysfs", "status"))
			m.run(service("ays_cache", "status"))
			works(m)
			if kind == "systemd" {
				checkUnits(m)
			}

			comesBack(m)
			m.run(service("aysfs", "stop"))
			if out, _ := m.try("grep /opt/tools /proc/mounts; pidof aysfs"); strings.TrimSpace(out) != "" {
				t.Errorf("stop leaves %q", out)
			}
			if _, code := m.try(service("aysfs", "status")); code != 3 {
				t.Errorf("status of what is stopped exits with %d", code)
			}
			m.run(service("aysfs", "start"))
			works(m)
			m.run(service("aysfs", "reload"))
			m.run(service("ays_cache", "reload"))
			m.run(service("aysfs", "restart"))
			works(m)
			m.powerOff()
			if g.disk == "" {
				return
			}

			// What is cached serves without a network, and the boot does not wait for one.
			g.laid, g.network = true, false
			m = boot(t, g)
			works(m)
			m.powerOff()
		})
	}
}

// works reads all of the tree and runs a program from it.
func works(m *machine) {
	m.t.Helper()
	m.run("cd /opt/tools && sha256sum -c SUMS")
	if out := m.run("/opt/tools/bin/greet"); !strings.Contains(out, "hello from greet") {
		m.t.Errorf("the program in the tree prints %q", out)
	}
}

// comesBack kills the process that serves. What the kernel still has is no
// proof that there is another: it must say itself that all is mounted.
func comesBack(m *machine) {
	m.t.Helper()
	const server = `ays status -json | sed -n 's/^  "pid": \([0-9]*\),*$/\1/p'`
	old := strings.TrimSpace(m.run(server))
	m.run("kill -9 " + old)
	began := time.Now()
	m.run(`n=0; until ays status >/dev/null 2>&1 && [ "$(` + server + `)" != ` + old + ` ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done`)
	m.t.Logf("killed, another one serves after %.1f s", time.Since(began).Seconds())
	works(m)
}

// checkUnits has systemd judge its units.
func checkUnits(m *machine) {
	m.t.Helper()
	out := m.run("systemd-analyze verify aysfs.service ays_cache.service 2>&1")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "ays") {
			m.t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	// From 0, sealed, to 10, anything goes. What mounts for all can't be sealed.
	m.run("systemd-analyze security --no-pager --threshold=60 ays_cache.service >/tmp/security || { cat /tmp/security; exit 1; }")
	m.t.Log(m.run("tail -n 1 /tmp/security"))
	if out := m.run("cat /proc/$(systemctl show --value -p MainPID aysfs)/oom_score_adj"); strings.TrimSpace(out) != "-900" {
		m.t.Errorf("aysfs has the OOM score %s", out)
	}
}

// TestApplianceBootsLate has a machine whose network comes after its boot: that
// does not hang, start says what is not there, and it appears when it can.
func TestApplianceBootsLate(t *testing.T) {
	t.Parallel()
	m := boot(t, guest{kind: "busybox", lay: appliance(t, "busybox", newStore(t)), network: true, late: true})
	if said := m.said(); !strings.Contains(said, "aysfs: /opt/tools: no tree yet") || !strings.Contains(said, "aysfs: start exits with 0") {
		t.Errorf("the console does not say that there is no tree")
	}
	if out, code := m.try("cat /opt/tools/SUMS"); code == 0 || !strings.Contains(out, "Input/output error") {
		t.Errorf("without a network the tree has %q", out)
	}
	m.run("network")
	m.run("n=0; until [ -e /opt/tools/SUMS ]; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done")
	works(m)
	m.powerOff()
}

// TestApplianceBootsWithoutFuse has a kernel that can't do it.
func TestApplianceBootsWithoutFuse(t *testing.T) {
	t.Parallel()
	m := boot(t, guest{kind: "busybox", lay: appliance(t, "busybox", newStore(t)), network: true, noFuse: true})
	if !strings.Contains(m.said(), "aysfs: start exits with 1") {
		t.Error("start does not fail")
	}
	if out, code := m.try("/etc/init.d/aysfs start"); code != 1 || !strings.Contains(out, "modprobe fuse") {
		t.Errorf("start exits with %d: %s", code, out)
	}
	m.powerOff()
}
