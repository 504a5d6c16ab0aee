package config

import (
	"fmt"
	"net"
	"strconv"
)

// Ledis is [[ledis]]: where a cache server keeps what it has. It is the embedded
// one unless Addr says where another is.
type Ledis struct {
	Port    int    // on which the embedded one answers; 0: on none
	Bind    string // IP address to do so
	Passwd  Secret
	MaxSize int64 // bytes on disk, 16 MiB or more
	MinFree MinFree

	Addr    []string // host:port of a remote one; none: embedded
	Cluster bool     // these are nodes of a cluster
}

// readLedis takes the one table there may be. Without any it is served on the
// usual port.
func readLedis(root node) Ledis {
	list := root.list("ledis", tables)
	if len(list) > 1 {
		list[1].problem("", "is there twice: a cache has one ledis, remove the other")
	}
	if len(list) == 0 {
		const usual = 999
		return Ledis{Port: usual, Bind: loopback, MaxSize: 100 << 30, MinFree: MinFree{Percent: 5}}
	}
	n := list[0]
	l := Ledis{
		Port:    n.whole("port", 0, 0, 65535),
		Bind:    parsed(n, "bind", loopback, parseIP),
		Passwd:  n.secret("passwd"),
		MaxSize: parsed(n, "max_size", "100GiB", sizeFrom(16)),
		MinFree: parsed(n, "min_free", "5%", parseMinFree),
		Cluster: n.flag("cluster", false),
	}
	for _, e := range n.list("addr", texts) {
		a, err := parseAddr(e.value.(string))
		if err != nil {
			e.problem("", "%v", err)
		}
		l.Addr = append(l.Addr, a)
	}
	switch {
	case l.Cluster && len(l.Addr) == 0:
		n.problem("cluster", "needs nodes: write addr = [\"10.0.0.5:6379\"]")
	case len(l.Addr) > 1 && !l.Cluster:
		n.problem("addr", "has more than one address: write cluster = true, or only one of them")
	}
	return l
}

const loopback = "127.0.0.1"

func parseIP(s string) (string, error) {
	if net.ParseIP(s) == nil {
		return s, fmt.Errorf("%s is not an IP address: write such as \"127.0.0.1\"", quote(s))
	}
	return s, nil
}

func parseAddr(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if n, e := strconv.Atoi(port); err != nil || e != nil || n < 1 || n > 65535 {
		return s, fmt.Errorf("%s is not the address of a server: write such as \"10.0.0.5:6379\"", quote(s))
	}
	_, err = parseHost(host)
	return s, err
}
