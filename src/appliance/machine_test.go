//go:build appliance

package appliance

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kept is a directory that a script of testdata fills: made once, kept for other
// runs in the user's cache directory as long as the script is the same. The
// script gets the arguments and where it is to put things.
func kept(t *testing.T, script string, args ...string) string {
	t.Helper()
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil { // there is no home
		cache = os.TempDir()
	}
	name := strings.TrimSuffix(filepath.Base(script), ".sh")
	dir := filepath.Join(cache, "aysfs-appliance", fmt.Sprintf("%s-%.4x", name, sha256.Sum256(text)))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	began := time.Now()
	scratch := dir + ".new"
	if err := os.RemoveAll(scratch); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, 8*time.Minute, "sh", append(append([]string{script}, args...), scratch)...)
	if err := os.Rename(scratch, dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s made in %v", dir, time.Since(began).Round(time.Second))
	return dir
}

// guest is what a machine is made of.
type guest struct {
	kind    string // busybox, sysvinit, openrc or systemd
	lay     string // directory that is laid over the root
	disk    string // image, which is written to; none for busybox
	laid    bool   // the disk has run before
	network bool
	late    bool // the network is not brought up at boot; for busybox
	noFuse  bool // the kernel has no such module; for busybox
}

// newDisk is a copy of the image that a kind of guest boots from.
func newDisk(t *testing.T, kind string) string {
	t.Helper()
	image := "debian.ext4"
	if kind == "openrc" {
		image = "openrc.ext4"
	}
	disk := filepath.Join(t.TempDir(), image)
	from := filepath.Join(kept(t, "testdata/debian.sh", kept(t, "testdata/kernel.sh")), image)
	run(t, time.Minute, "cp", "--sparse=always", "--reflink=auto", from, disk)
	return disk
}

// modules are those that the kernel may find before there is a disk.
func (g guest) modules() []string {
	all := []string{"kernel/drivers/virtio", "kernel/drivers/block/virtio_blk.ko", "kernel/drivers/net/virtio_net.ko", "kernel/drivers/net/net_failover.ko", "kernel/net/core/failover.ko"}
	if g.kind == "busybox" && !g.noFuse {
		all = append(all, "kernel/fs/fuse/fuse.ko")
	}
	return all
}

// initramfs packs what the kernel starts, and what is laid over the root.
func (g guest) initramfs(t *testing.T, kernel string) string {
	t.Helper()
	dir := t.TempDir()
	shell(t, `
		kernel=$1 lay=$2 to=$3
		shift 3
		mkdir -p "$to/bin" "$to/lib/modules"
		cp "$kernel/bin/busybox" "$to/bin"
		ln -s busybox "$to/bin/sh"
		cp testdata/initramfs.sh "$to/init"
		cp -a "$lay" "$to/lay"
		cp -a testdata/guest/. "$to/lay"
		modules=$(cd "$kernel/lib/modules/" && echo *)
		mkdir "$to/lib/modules/$modules"
		cd "$kernel/lib/modules/$modules"
		cp -a --parents modules.* "$@" "$to/lib/modules/$modules"
	`, append([]string{kernel, g.lay, dir}, g.modules()...)...)
	if g.kind == "busybox" || g.kind == "systemd" {
		run(t, time.Minute, "cp", "-a", "testdata/"+g.kind+"/.", dir+"/lay")
	}
	packed := filepath.Join(t.TempDir(), "initramfs")
	shell(t, `cd "$1" && find . | busybox cpio -o -H newc >"$2"`, dir, packed)
	return packed
}

// machine is a running guest. Its console is the first serial port; on the
// second it does what it is told.
type machine struct {
	t       *testing.T
	cmd     *exec.Cmd
	console string // file
	in      io.Writer
	answers chan answer // closed when the machine is off
}

// answer is what a command in a guest printed, and what it said at its end.
type answer struct{ out, end string }

// bootWithin is how long a guest may take to come up: many times what it takes
// on a machine that has nothing else to do.
const bootWithin = 3 * time.Minute

// boot returns when all that the guest starts by itself has been started, or
// has failed to.
func boot(t *testing.T, g guest) *machine {
	t.Helper()
	kernel := kept(t, "testdata/kernel.sh")
	m := &machine{t: t, console: filepath.Join(t.TempDir(), "console"), answers: make(chan answer)}
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-m", "512", "-no-reboot", "-nodefaults", "-display", "none",
		"-kernel", kernel + "/vmlinuz", "-initrd", g.initramfs(t, kernel),
		"-serial", "file:" + m.console, "-serial", "stdio",
	}
	words := "console=ttyS0 panic=-1 net.ifnames=0 loglevel=4 guest=" + g.kind
	if g.kind == "systemd" { // which would wait for udev to find the console
		words += " systemd.mask=serial-getty@ttyS0.service systemd.log_color=0"
	}
	if g.laid {
		words += " laid=1"
	}
	if g.late {
		words += " late=1"
	}
	if g.network {
		args = append(args, "-nic", "user,model=virtio-net-pci")
	}
	if g.disk != "" {
		args = append(args, "-drive", "format=raw,if=virtio,file="+g.disk)
	}
	m.cmd = exec.Command("qemu-system-x86_64", append(args, "-append", words)...)
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.in = in
	began := time.Now()
	if err := spawn(m.cmd); err != nil {
		t.Fatal(err)
	}
	go m.listen(out)
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		for range m.answers {
		}
		m.cmd.Wait()
		if t.Failed() {
			t.Logf("console of the %s guest:\n%s", g.kind, end(m.said()))
		}
	})
	if a, ok := m.answer(bootWithin); !ok || a.end != "ready" {
		t.Fatalf("the guest does not come up within %v", bootWithin)
	}
	t.Logf("%s is up after %.1f s", g.kind, time.Since(began).Seconds())
	return m
}

// listen makes answers of what comes from the second serial port.
func (m *machine) listen(from io.Reader) {
	defer close(m.answers)
	var out bytes.Buffer
	for r := bufio.NewReader(from); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if end, ok := strings.CutPrefix(line, "\x01"); ok {
			m.answers <- answer{strings.TrimSuffix(out.String(), "\n"), strings.TrimSpace(end)}
			out.Reset()
			continue
		}
		out.WriteString(line)
	}
}

func (m *machine) answer(d time.Duration) (a answer, ok bool) {
	select {
	case a, ok = <-m.answers:
		return a, ok
	case <-time.After(d):
		return a, false
	}
}

// try runs a line of shell in the guest and returns what it printed and its
// exit code.
func (m *machine) try(line string) (string, int) {
	m.t.Helper()
	if _, err := io.WriteString(m.in, line+"\n"); err != nil {
		m.t.Fatal(err)
	}
	const d = 2 * time.Minute
	a, ok := m.answer(d)
	if !ok {
		m.t.Fatalf("guest: %s: no answer within %v", line, d)
	}
	code, err := strconv.Atoi(a.end)
	if err != nil {
		m.t.Fatalf("guest: %s: %q %q", line, a.out, a.end)
	}
	return a.out, code
}

// run is try for what must succeed.
func (m *machine) run(line string) string {
	m.t.Helper()
	out, code := m.try(line)
	if code != 0 {
		m.t.Fatalf("guest: %s: exits with %d\n%s", line, code, out)
	}
	return out
}

// said is what the console shows.
func (m *machine) said() string {
	text, err := os.ReadFile(m.console)
	if err != nil {
		m.t.Error(err)
	}
	return string(text)
}

// trouble is what no console may show.
var trouble = regexp.MustCompile(`(?i:kernel panic|\boops\b|segfault|call trace|hung task|out of memory)|\bBUG: |\[FAILED\].*(ays|mount)`)

// powerOff has the guest end as it does when its power button is pressed, all
// services stopped.
func (m *machine) powerOff() {
	m.t.Helper()
	began := time.Now()
	if _, err := io.WriteString(m.in, "poweroff\n"); err != nil {
		m.t.Fatal(err)
	}
	const d = 2 * time.Minute
	for end := time.After(d); ; {
		select {
		case _, ok := <-m.answers:
			if ok {
				continue
			}
		case <-end:
			m.t.Fatalf("the guest is not off after %v", d)
		}
		break
	}
	m.t.Logf("off after %.1f s", time.Since(began).Seconds())
	if bad := trouble.FindString(m.said()); bad != "" {
		m.t.Errorf("the console shows %q", bad)
	}
}
