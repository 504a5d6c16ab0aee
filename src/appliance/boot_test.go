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
			works := func() {
				t.Helper()
				m.run("cd /opt/tools && sha256sum -c SUMS")
				if out := m.run("/opt/tools/bin/greet"); !strings.Contains(out, "hello from greet") {
					t.Errorf("the program in the tree prints %q", out)
				}
			}
			// All of it was started at boot.
			m.run(service("aysfs", "status"))
			m.run(service("ays_cache", "status"))
			works()
			t.Log(m.run("ays status"))

			m.run(service("aysfs", "stop"))
			if out, _ := m.try("grep /opt/tools /proc/mounts; pidof aysfs"); strings.TrimSpace(out) != "" {
				t.Errorf("stop leaves %q", out)
			}
			if _, code := m.try(service("aysfs", "status")); code != 3 {
				t.Errorf("status of what is stopped exits with %d", code)
			}
			m.run(service("aysfs", "start"))
			works()
			m.run(service("aysfs", "reload"))
			m.run(service("aysfs", "restart"))
			works()
			m.powerOff()
			if g.disk == "" {
				return
			}

			// What is cached serves without a network, and the boot does not wait for one.
			g.laid, g.network = true, false
			m = boot(t, g)
			works()
			m.powerOff()
		})
	}
}
