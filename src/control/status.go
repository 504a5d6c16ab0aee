package control

import (
	"time"

	"github.com/aysfs/aysfs/src/keeper"
	"github.com/aysfs/aysfs/src/tier"
)

// Status is how a client is doing. All sizes are in bytes; counts are since
// the client started.
type Status struct {
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
	Config  string    `json:"config"` // its file
	Loaded  time.Time `json:"loaded"` // when the config in force was read
	// ConfigError says why what the file has now is not in force.
	ConfigError string   `json:"config_error,omitempty"`
	NeedRestart []string `json:"need_restart,omitempty"` // keys that the file has changed in vain

	PID    int          `json:"pid"`
	Keeper *keeper.News `json:"keeper,omitempty"` // nil: the mounts end with the process
	Mounts []Mount      `json:"mounts"`
	Cache  Cache        `json:"cache"`
	Stores []Store      `json:"stores"`
	Memory Memory       `json:"memory"`
}

// Mount is one configured mount.
type Mount struct {
	Name   string    `json:"name"`
	Path   string    `json:"path"`
	Store  string    `json:"store"`
	Source string    `json:"source"` // the store's URL
	Since  time.Time `json:"since,omitzero"`
	// Error says why it shows no tree, and is empty once it does.
	Error   string `json:"error,omitempty"`
	Pending bool   `json:"pending,omitempty"` // without a tree, its path answers EIO

	Checked time.Time `json:"checked,omitzero"` // when the store was last asked for a newer head, and answered
	// Problem says why the store's newest head is not what is shown.
	Problem string    `json:"problem,omitempty"`
	Moves   int64     `json:"moves"` // from one tree to the next
	Moved   time.Time `json:"moved,omitzero"`

	Tree    string    `json:"tree"`
	Serial  int64     `json:"serial,omitempty"`
	Root    string    `json:"root,omitempty"`
	Time    time.Time `json:"published,omitzero"`
	Fresh   bool      `json:"fresh"` // the store was asked; false: the head was kept from before
	Remote  string    `json:"remote,omitempty"`
	Files   int64     `json:"files"`
	Bytes   int64     `json:"bytes"`
	Inodes  int       `json:"inodes"` // that the kernel holds
	Catalog string    `json:"metadata"`
	Debug   *Debug    `json:"debug,omitempty"` // nil: read-only
}

// Debug is what was changed in a mount.
type Debug struct {
	Changed int    `json:"changed"`         // paths, in redis
	Scratch int    `json:"scratch"`         // files and directories on this machine only
	Unsent  int    `json:"unsent"`          // written, and not in redis yet
	Error   string `json:"error,omitempty"` // why redis can't be asked
}

// Cache is the disk cache.
type Cache struct {
	Path     string `json:"path"`
	Blobs    int64  `json:"blobs"`
	Bytes    int64  `json:"bytes"`
	Disk     int64  `json:"disk"`
	MaxSize  int64  `json:"max_size"`
	Hits     int64  `json:"hits"`
	Misses   int64  `json:"misses"`
	HitBytes int64  `json:"hit_bytes"`
	Dropped  int64  `json:"dropped"`
	Evicted  int64  `json:"evicted_bytes"`
	Corrupt  int64  `json:"corrupt"`
	Bypassed string `json:"bypassed,omitempty"` // why nothing is kept
}

// Store is one store, and the tiers before it.
type Store struct {
	Name string           `json:"name"`
	URL  string           `json:"url"`
	Tier tier.ChainStatus `json:"tiers"`
}

// Memory is what the process takes.
type Memory struct {
	Limit    int64 `json:"limit"` // [main] memory
	Heap     int64 `json:"heap"`
	Metadata int64 `json:"metadata"` // decoded listings and chunk lists
	Resident int64 `json:"resident"`
	Routines int   `json:"goroutines"`
}
