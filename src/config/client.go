package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
)

// Client is the config of aysfs.
type Client struct {
	Main   Main
	Disk   *Disk   // nil: no disk cache
	Seed   Seed    // [cache.disk] seed
	Local  []Local // those that have a port
	Grid   []Grid
	Stores []Store
	Mounts []Mount // in the order of the file
	Debug  []Debug
}

// DefaultControl is where the control socket is unless the config says otherwise.
const DefaultControl = "/run/aysfs/aysfs.sock"

// Main is [main].
type Main struct {
	ID        string
	Refresh   time.Duration // 0: look for newer heads at start and reload only; else 1s or more
	IOTimeout time.Duration // 1s or more
	Memory    int64         // bytes, 16 MiB or more
	Xattr     bool
	Control   string // path of the control socket
	Log       string // text or json
	LogLevel  slog.Level
	LogFile   string // where the log goes when an init script starts the daemon
}

// LoadClient reads a client's config from a file and checks it as ParseClient
// does. The error is Problems if the file could be read.
func LoadClient(path string) (*Client, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseClient(path, data)
}

// ReadFile returns what a config's file has in it, up to a little more than Parse
// takes.
func ReadFile(path string) ([]byte, error) { return readFile(path) }

// ControlIn is the path of the control socket that a config's file names, also where
// the file is no good any more: a daemon goes on with what it read when it was. Where
// none can be found in it, that is usual.
func ControlIn(file, usual string) string {
	data, err := readFile(file)
	if err != nil {
		return usual
	}
	src := strings.TrimPrefix(string(data), "\ufeff")
	at := scan(src).root.child("main", 0).child("control", 0)
	if !at.set {
		return usual
	}
	var v struct {
		Control string
		Main    struct{ Control string }
	}
	// That line alone: what is wrong is in others.
	if _, err := toml.Decode(strings.TrimRight(strings.Split(src, "\n")[at.line-1], "\r"), &v); err != nil {
		return usual
	}
	path, err := parseSocketPath(cmp.Or(v.Control, v.Main.Control))
	if err != nil || path == "" {
		return usual
	}
	return path
}

func readFile(path string) ([]byte, error) {
	data, err := readRegular(path, maxFile+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("config: %w: write one, or name another with -config", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("config: %w: run this as root, or as who may read it", err)
	case errors.Is(err, syscall.EISDIR):
		return nil, fmt.Errorf("config: %w: name the file in it", err)
	case errors.Is(err, errIrregular):
		return nil, fmt.Errorf("config: %w: name one with -config", err)
	case err != nil:
		return nil, fmt.Errorf("config: %w", err)
	}
	return data, nil
}

var errIrregular = errors.New("not a regular file")

// regular tells why a path is no file that can be read without a wait: a pipe would
// wait for a writer.
func regular(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	case !st.Mode().IsRegular():
		return &fs.PathError{Op: "read", Path: path, Err: errIrregular}
	}
	return nil
}

// readRegular returns what is in a file, up to most bytes.
func readRegular(path string, most int64) ([]byte, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// ParseClient makes a config of TOML text. Messages call the file by name.
// An error is always Problems, and has all of them; after an error of syntax
// there are only those of syntax. The certificates that stores name are read,
// to check them; nothing else is looked up.
func ParseClient(name string, data []byte) (*Client, error) {
	return ParseClientIn("", name, data)
}

// ParseClientIn is ParseClient for the config of an image that has its root in a
// directory: the certificates are those in there. With no directory it is this machine.
func ParseClientIn(image, name string, data []byte) (*Client, error) {
	doc, err := parseIn(image, name, data, clientSchema)
	if err != nil {
		return nil, err
	}
	c := readClient(doc.root)
	if len(doc.problems) > 0 {
		doc.problems.sort()
		return nil, doc.problems
	}
	return c, nil
}

var clientSchema = slices.Concat(
	schema{
		{"main", table},
		{"main.id", text},
		{"main.refresh", text},
		{"main.io_timeout", text},
		{"main.memory", text},
		{"main.xattr", flag},
		{"main.control", text},
		{"main.log", text},
		{"main.log_level", text},
		{"main.log_file", text},
		{"cache.disk", table},
		{"cache.disk.path", text},
		{"cache.disk.max_size", text},
		{"cache.disk.min_free", text},
		{"cache.disk.expiration", whole},
		{"cache.disk.seed", text},
		{"cache.local", tables},
		{"cache.local.port", whole},
		{"cache.local.passwd", secret},
		{"cache.local.expiration", whole},
		{"cache.grid", tables},
		{"cache.grid.url", text},
		{"cache.grid.login", text},
		{"cache.grid.passwd", secret},
	},
	storeSchema("ays.stor"),
	mountSchema("mount_files"),
	mountSchema("mount_config"),
	schema{
		{"debug", tables},
		{"debug.name", text},
		{"debug.max_size", text},
		{"debug.redis.addr", text},
		{"debug.redis.port", whole},
		{"debug.redis.passwd", secret},
	},
)

func readClient(root node) *Client {
	c := &Client{
		Main:  readMain(root.table("main")),
		Disk:  readDisk(root.table("cache.disk")),
		Seed:  readSeed(root.table("cache.disk")),
		Local: readLocal(root.list("cache.local", tables)),
		Grid:  readGrid(root.list("cache.grid", tables)),
	}
	c.checkSeed(root)
	names := named{}
	for _, n := range root.list("ays.stor", tables) {
		c.Stores = append(c.Stores, readStore(n, names))
	}
	if root.none("ays.stor") {
		root.problem("ays.stor", "there is no store: write an [[ays.stor]] with a name and a url")
	}
	names = named{}
	for _, n := range root.list("debug", tables) {
		c.Debug = append(c.Debug, readDebug(n, names))
	}
	readMounts(root, c)
	if root.none("mount_files") && root.none("mount_config") {
		root.problem("mount_files", "there is no mount: write a [[mount_files]] or a [[mount_config]]")
	}
	return c
}

func readMain(n node) Main {
	m := Main{
		Refresh:   parsed(n, "refresh", "1m", intervalOrZero(time.Second)),
		IOTimeout: parsed(n, "io_timeout", "30s", interval(time.Second)),
		Memory:    parsed(n, "memory", "64MiB", sizeFrom(16)),
		Xattr:     n.flag("xattr", false),
		Control:   parsed(n, "control", DefaultControl, parseSocketPath),
		Log:       parsed(n, "log", "text", oneOf("text", "json")),
		LogLevel:  parsed(n, "log_level", "info", parseLogLevel),
		LogFile:   parsed(n, "log_file", "/var/log/aysfs.log", parsePath),
	}
	if n.has("id", `"web-17"`) {
		m.ID = parsed(n, "id", "", parseName)
	}
	return m
}

func parseLogLevel(s string) (l slog.Level, err error) {
	if _, err := oneOf("debug", "info", "warn", "error")(s); err != nil {
		return l, err
	}
	return l, l.UnmarshalText([]byte(s))
}
