//go:build appliance

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestApplianceKillsAndUpgrades kills what serves a hundred times and replaces it
// twenty times, while programs work in one mount and a compiler runs from another.
func TestApplianceKillsAndUpgrades(t *testing.T) {
	goroot := strings.TrimSpace(run(t, time.Minute, "go", "env", "GOROOT"))
	platform := runtime.GOOS + "-" + runtime.GOARCH
	tree := keptTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	publish(t, store.dir, "e2e|go(1)", goroot, "-platform", platform)
	c := keptClient(t, store.url())
	mount := c.mount("e2e|app(1)")
	toolchain := c.mount("e2e|go(1)", `platform = "`+platform+`"`)
	c.start()

	want := sha256.Sum256(compileWith(t, goroot, ""))
	const script = `
		out=$3 n=0
		export GOROOT=$1 GOTOOLCHAIN=local GOFLAGS= GOWORK=off CGO_ENABLED=0 GOCACHE=$out/cache
		cd "$1/src" || exit 1
		while ! read -t 0.01 x; do
			rm -rf "$out/cache"
			"$1/bin/go" build -trimpath -o "$out/gofmt" cmd/gofmt || exit 1
			got=$(sha256sum <"$out/gofmt")
			[ "${got%% *}" = "$2" ] || { echo "compiled another program"; exit 1; }
			n=$((n + 1))
		done
		echo "$n times compiled"`
	ws := startWork(t, mount, tree)
	ws.add(exec.Command("bash", "-c", script, "bash", toolchain, fmt.Sprintf("%x", want), t.TempDir()))
	for range 10 {
		c.kills(10, mount, ws)
		c.upgrades(2, mount, ws)
	}
	ws.end()
	if s := c.soon(); s.Keeper.Restarts != 100 || s.Keeper.Upgrades != 20 {
		t.Errorf("status tells of %+v", s.Keeper)
	}
	for _, m := range c.status().Mounts {
		t.Logf("%s: the kernel holds %d inodes", m.Path, m.Inodes)
	}
	sameTree(t, tree, mount)
	c.stop()
}
