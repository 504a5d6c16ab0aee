//go:build appliance

package appliance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// nfpmVersion is the one that makes a release's packages.
func nfpmVersion(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(top + "/src/dist/pack.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`const nfpm = "(.*)"`).FindSubmatch(source)
	if m == nil {
		t.Fatal("src/dist/pack.go names no nfpm")
	}
	return string(m[1])
}

// pack makes a package of this source, for this machine.
func pack(t *testing.T, kind, version string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for source, to := range map[string]string{"aysfs": "usr/sbin", "ays_cache": "usr/sbin", "ays": "usr/bin"} {
		run(t, 5*time.Minute, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version="+version,
			"-o", filepath.Join(root, to, source), top+"/src/cmd/"+source)
	}
	text, err := os.ReadFile(top + "/init/package/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"VERSION": version, "ARCH": "amd64", "DATE": "2026-01-02T03:04:05Z", "ROOT": root}
	config := filepath.Join(dir, "nfpm.yaml")
	if err := os.WriteFile(config, []byte(os.Expand(string(text), func(name string) string { return values[name] })), 0o644); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "aysfs_"+version+"."+kind)
	cmd := exec.Command("go", "run", nfpmVersion(t), "package", "--config", config, "--packager", kind, "--target", to)
	cmd.Dir = top
	if out, err := try(t, 6*time.Minute, cmd); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return to
}

// TestAppliancePackage installs a Debian package, upgrades it while programs work in a
// mount, removes and purges it.
func TestAppliancePackage(t *testing.T) {
	t.Setenv("CGO_ENABLED", "0")
	store, dir := t.TempDir(), t.TempDir()
	shell(t, `
		mkdir -p "$1/tree/sub"
		dd if=/dev/urandom of="$1/tree/large" bs=1M count=5 status=none
		echo here >"$1/tree/sub/here"
		seq 1000 >"$1/tree/numbers"
		cp -r "$2" "$1/scripts"
	`, dir, top+"/init/package")
	run(t, time.Minute, ays, "publish", "-store", store, "-id", "d|t(1)", filepath.Join(dir, "tree"))
	config := fmt.Sprintf("[main]\nid = \"e2e\"\n[[ays.stor]]\nname = \"s\"\nurl = %q\n[[mount_files]]\nname = \"t\"\npath = %q\nays.id = \"d|t(1)\"\nstor.name = \"s\"\n",
		serve(t, store), filepath.Join(dir, "mnt"))
	if err := os.WriteFile(filepath.Join(dir, "aysfs.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	// In a process namespace nothing outlives the script.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "testdata/package.sh", dir, pack(t, "deb", "1.0.0"), pack(t, "deb", "1.1.0"))
	out, err := try(t, 3*time.Minute, cmd)
	if err != nil || !strings.HasSuffix(out, "all well\n") {
		t.Errorf("%v\n%s", err, end(out))
	}
}

// TestAppliancePackagesOfOthers looks into the packages that can't be installed here.
func TestAppliancePackagesOfOthers(t *testing.T) {
	t.Setenv("CGO_ENABLED", "0")
	for kind, list := range map[string]string{
		"rpm": `busybox rpm2cpio "$1" | busybox cpio -t 2>/dev/null`,
		"apk": `tar tzf "$1" 2>/dev/null`,
	} {
		t.Run(kind, func(t *testing.T) {
			files := "\n" + shell(t, list, pack(t, kind, "1.0.0"))
			for _, want := range []string{"usr/sbin/aysfs", "usr/sbin/ays_cache", "usr/bin/ays", "etc/aysfs/aysfs.toml", map[string]string{
				"rpm": "usr/lib/systemd/system/aysfs.service", "apk": "etc/init.d/aysfs",
			}[kind]} {
				if !regexp.MustCompile(`\n\.?/?` + regexp.QuoteMeta(want) + `\n`).MatchString(files) {
					t.Errorf("%s is not in the package, which has%s", want, files)
				}
			}
			if kind == "apk" {
				for _, want := range []string{".post-install", ".pre-deinstall", ".post-deinstall"} {
					if !strings.Contains(files, "\n"+want+"\n") {
						t.Errorf("%s is not in the package, which has%s", want, files)
					}
				}
			}
		})
	}
}
