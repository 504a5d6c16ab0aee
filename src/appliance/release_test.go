//go:build appliance

package appliance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestApplianceRelease makes a release twice, in different directories, the
// second time by goreleaser where there is one, and looks at what is in it.
func TestApplianceRelease(t *testing.T) {
	var dirs [2]string
	for i := range dirs {
		dirs[i] = filepath.Join(t.TempDir(), "source")
		// A repository of its own: what is here may be no commit yet, or no clone.
		shell(t, `
			mkdir "$2" && cd "$1"
			tar -cf - --exclude=./.git --exclude=./bin --exclude=./dist --exclude=./.bench --exclude=./.demo . | tar -xf - -C "$2"
			cd "$2"
			export GIT_AUTHOR_DATE=2026-01-02T03:04:05Z GIT_COMMITTER_DATE=2026-01-02T03:04:05Z
			git init -q && git add -A && git -c user.name=test -c user.email=test@localhost -c commit.gpgsign=false commit -q -m test
		`, top, dirs[i])
	}
	commit := strings.TrimSpace(run(t, time.Minute, "git", "-C", dirs[0], "rev-parse", "--short=12", "HEAD"))
	run(t, 8*time.Minute, "make", "-C", dirs[0], "dist")
	goreleaser := goreleaser()
	if goreleaser != "" {
		cmd := exec.Command("make", "-C", dirs[1], "release-snapshot")
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+filepath.Dir(goreleaser))
		if out, err := try(t, 8*time.Minute, cmd); err != nil {
			t.Fatalf("%v\n%s", err, end(out))
		}
	} else {
		run(t, 8*time.Minute, "make", "-C", dirs[1], "dist")
	}
	sums := func(dir string) (all []string) {
		text, err := os.ReadFile(filepath.Join(dir, "dist/checksums.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if goreleaser != "" && !strings.Contains(line, ".tar.gz") {
				_, line, _ = strings.Cut(line, "  ") // it packs with another version of nfpm
			}
			all = append(all, line)
		}
		return all
	}
	ours, theirs := sums(dirs[0]), sums(dirs[1])
	if len(ours) != 4*5 || strings.Join(ours, "") != strings.Join(theirs, "") {
		t.Errorf("two releases of one commit differ:\n%s\n%s", strings.Join(ours, ""), strings.Join(theirs, ""))
	}
	if goreleaser != "" {
		samePackages(t, dirs)
	}

	shell(t, `cd "$1/dist" && sha256sum -c checksums.txt`, dirs[0])
	root := t.TempDir()
	const name = "aysfs_0.0.1-snapshot_ubuntu64"
	shell(t, `tar -xzf "$1/dist/$2.tar.gz" -C "$3"`, dirs[0], name, root)
	for _, p := range []string{"LICENSE", "README.md", "init/aysfs", "init/openrc/aysfs", "init/systemd/aysfs.service", "rootfs/etc/aysfs/aysfs.toml"} {
		if _, err := os.Stat(filepath.Join(root, name, p)); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []string{"sbin/aysfs", "sbin/ays_cache", "bin/ays"} {
		program := filepath.Join(root, name, "rootfs/usr", p)
		want := filepath.Base(p) + " 0.0.1-snapshot (" + commit + ")"
		if got := run(t, time.Minute, program, "-version"); !strings.HasPrefix(got, want) {
			t.Errorf("%s -version prints %q, want %q", p, got, want)
		}
	}
}

// goreleaser is its path, and empty where it is not installed.
func goreleaser() string {
	if path, err := exec.LookPath("goreleaser"); err == nil {
		return path
	}
	gopath, err := exec.Command("go", "env", "GOPATH").Output()
	if err != nil {
		return ""
	}
	path := filepath.Join(strings.TrimSpace(string(gopath)), "bin/goreleaser")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// samePackages compares what is in the debs, and what their scripts do.
func samePackages(t *testing.T, dirs [2]string) {
	t.Helper()
	scratch := t.TempDir()
	shell(t, `
		cd "$1"
		for source in "$2" "$3"; do
			to=$(basename "$(dirname "$source")")
			mkdir "$to"
			for deb in "$source"/dist/*.deb; do
				dpkg-deb -R "$deb" "$to/$(basename "$deb")"
				dpkg-deb -c "$deb" >"$to/$(basename "$deb").list"
			done
			# Fields that another version writes.
			find "$to" -path '*/DEBIAN/control' -exec sed -i '/^License:/d; /^Architecture-Variant:/d' {} +
			find "$to" -path '*/DEBIAN/md5sums' -exec sed -i 's/  \.*\/*/  /' {} +
		done
		diff -r "$(basename "$(dirname "$2")")" "$(basename "$(dirname "$3")")"
	`, scratch, dirs[0], dirs[1])
}
