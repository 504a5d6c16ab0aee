//go:build appliance

package appliance

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// podman is a container engine with nothing of anybody else's in it, and the image
// of the Dockerfile.
type podman struct {
	t   *testing.T
	dir string
}

// engineConf has what machines such as those of CI need: runc, whose limits are
// below what they allow, and no systemd.
const engineConf = `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
`

// newPodman builds the image aysfs from a release.
func newPodman(t *testing.T) *podman {
	t.Helper()
	dir, err := os.MkdirTemp("", "podman") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t, dir}
	t.Cleanup(func() {
		if out, err := try(t, time.Minute, p.command("rm", "-f", "-a", "-t", "1")); err != nil {
			t.Errorf("remove containers: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	storage := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	for name, text := range map[string]string{"containers.conf": engineConf, "storage.conf": storage} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shell(t, `
		top=$1 dir=$2 aysfs=$3 ays=$4 ays_cache=$5
		release=$dir/context/aysfs_1.2.3_ubuntu64
		mkdir -p "$release/rootfs/usr/sbin" "$release/rootfs/usr/bin"
		cp "$top/LICENSE" "$release"
		cp -a "$top/rootfs/." "$release/rootfs"
		cp "$aysfs" "$ays_cache" "$release/rootfs/usr/sbin"
		cp "$ays" "$release/rootfs/usr/bin"
		cd "$dir/context"
		mkdir dist
		tar czf dist/aysfs_1.2.3_ubuntu64.tar.gz aysfs_1.2.3_ubuntu64
	`, abs(t, top), dir, aysfs, ays, aysCache)
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		run(t, time.Minute, "cp", filepath.Join(top, name), filepath.Join(dir, "context"))
	}
	p.run("build", "-q", "--format", "docker", "-t", "aysfs", filepath.Join(dir, "context"))
	return p
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (p *podman) command(args ...string) *exec.Cmd {
	cmd := exec.Command("podman", append([]string{"--tmpdir", filepath.Join(p.dir, "tmp")}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(p.dir, "containers.conf"), "CONTAINERS_STORAGE_CONF="+filepath.Join(p.dir, "storage.conf"))
	return cmd
}

func (p *podman) run(args ...string) string {
	p.t.Helper()
	out, err := try(p.t, 3*time.Minute, p.command(args...))
	if err != nil {
		p.t.Fatalf("podman %q: %v\n%s", args, err, end(out))
	}
	return out
}

// start runs a container in the background, for a few minutes at the most.
func (p *podman) start(name string, args ...string) {
	p.t.Helper()
	p.run(append([]string{"run", "-d", "--name", name, "--timeout", "300"}, args...)...)
	p.t.Cleanup(func() {
		if p.t.Failed() {
			out, _ := try(p.t, time.Minute, p.command("logs", name))
			p.t.Logf("log of the container %s:\n%s", name, end(out))
		}
	})
}

// healthy runs the image's health check in a container.
func (p *podman) healthy(name string) bool {
	p.t.Helper()
	_, err := try(p.t, time.Minute, p.command("healthcheck", "run", name))
	return err == nil
}

// asClient is how the README has the client run; shared is where its mounts appear.
func asClient(config, shared string) []string {
	return []string{
		"--device", "/dev/fuse", "--cap-drop", "ALL", "--cap-add", "SYS_ADMIN", "--security-opt", "no-new-privileges", "--memory", "128m",
		"-v", config + ":/etc/aysfs:ro", "-v", shared + ":/opt/apps:rshared",
	}
}

// sharedDir is a directory whose mounts containers share.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, time.Minute, "mount", "--bind", dir, dir)
	t.Cleanup(func() { run(t, time.Minute, "umount", "-R", "-l", dir) })
	run(t, time.Minute, "mount", "--make-rshared", dir)
	return dir
}

// serve serves a directory to this machine.
func serve(t *testing.T, dir string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}

// tree is a directory with a program and a file.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte("#!/bin/sh\necho 'the program runs'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, time.Minute, "cp", aysfs, filepath.Join(dir, "large"))
	return dir
}

func writeConfig(t *testing.T, name, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func clientConfig(url string, ids ...string) string {
	text := fmt.Sprintf("[main]\nid = \"container\"\n[[ays.stor]]\nname = \"s\"\nurl = %q\n", url)
	for i, id := range ids {
		text += fmt.Sprintf("[[mount_files]]\nname = \"t%d\"\npath = \"/opt/apps/t%d\"\nays.id = %q\nstor.name = \"s\"\nwait = \"1s\"\n", i, i, id)
	}
	return text
}

// eventually waits until ok, for at most d.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after %v", what, d)
		}
	}
}

func mounted(t *testing.T, path string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+path+" fuse.aysfs ")
}

// TestApplianceContainerClient mounts in a container, for the host. It is unhealthy as
// long as one of its trees is not there.
func TestApplianceContainerClient(t *testing.T) {
	p := newPodman(t)
	store, from, shared := t.TempDir(), tree(t), sharedDir(t)
	run(t, time.Minute, ays, "publish", "-store", store, "-id", "d|t(1)", from)
	config := writeConfig(t, "aysfs.toml", clientConfig(serve(t, store), "d|t(1)", "d|t(2)"))
	p.start("client", append(asClient(config, shared), "--network", "host", "aysfs")...)
	one, two := filepath.Join(shared, "t0"), filepath.Join(shared, "t1")
	eventually(t, time.Minute, "the tree is there for the host", func() bool { return mounted(t, one) })
	if out := run(t, time.Minute, filepath.Join(one, "program")); out != "the program runs\n" {
		t.Errorf("the program says %q", out)
	}
	run(t, time.Minute, "diff", "-r", from, one)
	eventually(t, time.Minute, "the container is unhealthy: a tree is missing", func() bool { return mounted(t, two) && !p.healthy("client") })
	run(t, time.Minute, ays, "publish", "-store", store, "-id", "d|t(2)", from)
	eventually(t, 2*time.Minute, "the container is healthy", func() bool { return p.healthy("client") })
	run(t, time.Minute, "diff", "-r", from, two)
	p.run("stop", "-t", "20", "client")
	if mounted(t, one) || mounted(t, two) {
		t.Error("the container has ended and left its mounts")
	}
	if code := strings.TrimSpace(p.run("inspect", "-f", "{{.State.ExitCode}}", "client")); code != "0" {
		t.Errorf("the client exited with %s", code)
	}
}

// TestApplianceContainerCache runs the cache as nobody, with a root that can't be
// written and no right at all.
func TestApplianceContainerCache(t *testing.T) {
	p := newPodman(t)
	store := t.TempDir()
	run(t, time.Minute, ays, "publish", "-store", store, "-id", "d|t(1)", tree(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	config := writeConfig(t, "ays_cache.toml", fmt.Sprintf("[http]\nlisten = %q\n", addr))
	p.start("cache", "--network", "host", "--read-only", "--read-only-tmpfs=false", "--user", "65534:65534", "--cap-drop", "ALL",
		"-v", "ays_cache:/var/lib/ays_cache", "--tmpfs", "/run/aysfs:mode=1777", "-v", config+":/etc/aysfs:ro",
		"--entrypoint", "/usr/sbin/ays_cache", "aysfs")
	eventually(t, time.Minute, "the cache is healthy", func() bool { return p.healthy("cache") })
	pid := strings.TrimSpace(p.run("inspect", "-f", "{{.State.Pid}}", "cache"))
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil || !strings.Contains(string(status), "\nUid:\t65534\t65534\t65534\t65534\n") || !strings.Contains(string(status), "\nCapEff:\t0000000000000000\n") {
		t.Errorf("the cache runs as\n%s%v", status, err)
	}

	ask := func(method, path, body string) string {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s, %v\n%.300s", method, path, resp.Status, err, b)
		}
		return string(b)
	}
	ask("POST", "/ays/client/me", `{}`)
	ask("POST", "/ays/stor/s", fmt.Sprintf(`{"url": %q}`, serve(t, store)))
	ask("POST", "/ays/mount/me/t", `{"ays.id": "d|t(1)", "stor.name": "s"}`)
	var listing []map[string]any
	if text := ask("GET", "/md/me/t/", ""); json.Unmarshal([]byte(text), &listing) != nil && !strings.Contains(text, "program") {
		t.Errorf("the tree's root: %s", text)
	}

	// One that does not answer is not healthy.
	n := 0
	fmt.Sscan(pid, &n)
	if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if p.healthy("cache") {
		t.Error("a cache that does not answer is healthy")
	}
	if err := syscall.Kill(n, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the cache is healthy again", func() bool { return p.healthy("cache") })
	p.run("stop", "-t", "20", "cache")
	if code := strings.TrimSpace(p.run("inspect", "-f", "{{.State.ExitCode}}", "cache")); code != "0" {
		t.Errorf("the cache exited with %s", code)
	}
}

// TestApplianceContainerBaked makes an image of ours that has a tree baked in, as the
// README tells, and runs it without a network.
func TestApplianceContainerBaked(t *testing.T) {
	p := newPodman(t)
	store, from, shared := t.TempDir(), tree(t), sharedDir(t)
	run(t, time.Minute, ays, "publish", "-store", store, "-id", "d|t(1)", from)
	context := writeConfig(t, "aysfs.toml", clientConfig(serve(t, store), "d|t(1)"))
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(`FROM localhost/aysfs AS aysfs
FROM scratch
COPY --from=aysfs /usr/sbin/aysfs /usr/sbin/
COPY --from=aysfs /usr/bin/ays /usr/bin/
COPY aysfs.toml /etc/aysfs/
RUN ["/usr/bin/ays", "bake", "-rootfs", "/", "-with-data"]
ENTRYPOINT ["/usr/sbin/aysfs"]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	p.run("build", "-q", "--pull-never", "--network", "host", "-t", "app", context)
	p.start("app", "--network", "none", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/run/aysfs", "--device", "/dev/fuse",
		"--cap-drop", "ALL", "--cap-add", "SYS_ADMIN", "-v", shared+":/opt/apps:rshared", "app")
	mount := filepath.Join(shared, "t0")
	eventually(t, time.Minute, "the tree is there for the host", func() bool { return mounted(t, mount) })
	run(t, time.Minute, "diff", "-r", from, mount)
	p.run("stop", "-t", "20", "app")
	if mounted(t, mount) {
		t.Error("the container has ended and left its mount")
	}
}
