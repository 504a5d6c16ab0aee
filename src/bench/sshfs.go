package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// sshfs mounts the plain tree from an sshd of our own, over the same link.
type sshfs struct {
	*site
	sshd *process // nil: not yet
}

func findSSHD() string {
	for _, name := range []string{"sshd", "/usr/sbin/sshd"} {
		// It wants to be called by its whole path.
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

const sftpServer = "/usr/lib/openssh/sftp-server"

func (d *sshfs) absent() string {
	if findSSHD() == "" {
		return "sshd is not installed"
	}
	return missing("sshfs", "ssh", "ssh-keygen", sftpServer)
}

func (d *sshfs) from() origin { return fresh }

// sshdConf lets root in with a key that only this run knows.
const sshdConf = `ListenAddress IP
Port 22
HostKey DIR/host
PidFile none
AuthorizedKeysFile DIR/user.pub
AuthenticationMethods publickey
PermitRootLogin yes
StrictModes no
UsePAM no
UseDNS no
Subsystem sftp ` + sftpServer + `
`

func (d *sshfs) prepare(ctx context.Context, t *tree) error {
	if err := d.servePlain(ctx, t); err != nil || d.sshd != nil {
		return err
	}
	dir := d.path("ssh")
	// The first is where it wants to be locked up.
	for _, name := range []string{"/run/sshd", dir} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
	}
	for _, key := range []string{"host", "user"} {
		if err := runQuietly(ctx, time.Minute, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)); err != nil {
			return err
		}
	}
	conf := filepath.Join(dir, "sshd.conf")
	if err := os.WriteFile(conf, []byte(strings.NewReplacer("DIR", dir, "IP", link.FarIP).Replace(sshdConf)), 0o644); err != nil {
		return err
	}
	p, err := startFar(ctx, d.server.far, d.dir, link.FarIP+":22", exec.Command(findSSHD(), "-D", "-e", "-f", conf))
	if err != nil {
		return err
	}
	d.sshd = p
	return nil
}

func (d *sshfs) mount(ctx context.Context, t *tree, _ bool) (*mounted, error) {
	dir, err := d.mountPoint("sshfs", t)
	if err != nil {
		return nil, err
	}
	// It may believe for as long as it likes that nothing changes, as others may.
	options := []string{"ro", "kernel_cache", "max_conns=8", "entry_timeout=3600", "attr_timeout=3600",
		"dcache_timeout=3600", "dcache_stat_timeout=3600", "dcache_link_timeout=3600", "dcache_dir_timeout=3600", "dcache_max_size=1000000",
		"IdentityFile=" + d.path("ssh", "user"), "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"}
	from := fmt.Sprintf("root@%s:%s", link.FarIP, d.plain(t))
	return d.mountByDaemon(ctx, dir, exec.Command("sshfs", "-f", from, dir, "-o", strings.Join(options, ",")), nil)
}
