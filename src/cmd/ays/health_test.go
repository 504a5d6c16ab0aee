package main_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
)

// TestHealth asks sockets on which there is nobody, a daemon that is well, and one that
// is not.
func TestHealth(t *testing.T) {
	dir, err := os.MkdirTemp("", "ays")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	client, cache := dir+"/aysfs.toml", dir+"/ays_cache.toml"
	must(t, os.WriteFile(client, fmt.Appendf(nil, "[main]\nid = \"x\"\ncontrol = %q\n[[ays.stor]]\nname = \"s\"\nurl = \"http://h\"\n[[mount_files]]\nname = \"m\"\npath = \"/opt/m\"\nays.id = \"d|n(1)\"\nstor.name = \"s\"\n", dir+"/client"), 0o600))
	must(t, os.WriteFile(cache, fmt.Appendf(nil, "[main]\ncontrol = %q\n", dir+"/cache"), 0o600))
	health := func(code int) string {
		t.Helper()
		return ays(t, code, "health", "-config", client, "-cache-config", cache).stdout
	}
	contains(t, health(1), "neither aysfs nor ays_cache runs here", dir+"/client")

	serve := func(socket string, code int, text string) *http.Server {
		l, err := net.Listen("unix", socket)
		must(t, err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p := r.URL.Path; p != "/healthz" && p != "/status" && p != "/explain" {
				t.Errorf("asked for %s", p)
			}
			http.Error(w, text, code)
		})}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		return s
	}
	srv := serve(dir+"/cache", 200, "ok")
	contains(t, health(0), "healthy")
	add(t, cache, "bad = [\n") // the daemon goes on with what it read
	contains(t, health(0), "healthy")
	serve(dir+"/client", 503, "/opt/m: no such tree")
	contains(t, health(1), "/opt/m: no such tree")
	add(t, client, "bad = [\n")
	contains(t, health(1), "/opt/m: no such tree")
	for _, command := range [][]string{{"status"}, {"explain", "/opt/m"}} {
		contains(t, ays(t, 2, append([]string{command[0], "-config", client}, command[1:]...)...).stderr,
			"/opt/m: no such tree", client+":12: ") // it was asked; and what is wrong besides
	}
	must(t, os.Remove(dir+"/client"))
	srv.Close() // as a process that was killed leaves its socket
	contains(t, health(1), "connection refused")
}

// add writes more at the end of a file.
func add(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}
