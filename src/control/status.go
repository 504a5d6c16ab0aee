package control

import (
	"errors"
	"fmt"
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
	Seed   *Seed        `json:"seed,omitempty"` // nil: nothing came with the machine
	Stores []Store      `json:"stores"`
	Memory Memory       `json:"memory"`
	Files  Files        `json:"files"`
}

// Files is what the process has of descriptors; 0 for what can't be told.
type Files struct {
	Open int64 `json:"open"`
	Most int64 `json:"most"` // that it may have
}

// healthy tells which of the mounts don't show a tree. One that can't be asked for
// a newer tree is well all the same.
func (s Status) healthy() error {
	var errs []error
	for _, m := range s.Mounts {
		if m.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", m.Path, m.Error))
		}
	}
	return errors.Join(errs...)
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
	Profile *Profile  `json:"profile,omitempty"` // nil: there is none, and none is recorded
	// What is brought near ahead of need; each nil until it begins.
	PrefetchMetadata *Bringing `json:"prefetch_metadata,omitempty"`
	PrefetchProfile  *Bringing `json:"prefetch_profile,omitempty"`
	PrefetchTree     *Bringing `json:"prefetch_tree,omitempty"`
	Debug            *Debug    `json:"debug,omitempty"` // nil: read-only
}

// Profile is what is known of what programs need of a mount's tree first.
type Profile struct {
	From      string    `json:"from,omitempty"` // who had it
	Needs     int       `json:"needs"`          // objects, about
	Runs      int       `json:"runs"`           // that were merged into it
	Time      time.Time `json:"time,omitzero"`  // when the last of them was
	Recording bool      `json:"recording"`      // this run is being recorded
	Recorded  int       `json:"recorded"`       // needs of this run, so far
}

// Bringing is how far something has come that is brought near ahead of need.
type Bringing struct {
	Running   bool      `json:"running"`
	Waiting   string    `json:"waiting,omitempty"` // what it waits for, if it does
	Ended     time.Time `json:"ended,omitzero"`
	Error     string    `json:"error,omitempty"` // why it ended early
	Objects   int64     `json:"objects"`         // that are here
	OfObjects int64     `json:"of_objects,omitempty"`
	Failed    int64     `json:"failed,omitempty"` // objects that could not be had
	Bytes     int64     `json:"bytes,omitempty"`  // of files, plain
	OfBytes   int64     `json:"of_bytes,omitempty"`
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

// Seed is the cache that came with the machine's image.
type Seed struct {
	Path     string `json:"path"`
	Blobs    int64  `json:"blobs"`
	Bytes    int64  `json:"bytes"`
	Disk     int64  `json:"disk"`
	Hits     int64  `json:"hits"`
	Misses   int64  `json:"misses"`
	HitBytes int64  `json:"hit_bytes"`
	Corrupt  int64  `json:"corrupt"` // blobs that failed their digest
	Damaged  int64  `json:"damaged"` // files that can't be used
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
