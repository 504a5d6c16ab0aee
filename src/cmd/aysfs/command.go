package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/service"
)

// command does what an init script asks for.
func command(name, file string) int {
	s := service.Service{Name: "aysfs", Config: file, Worker: workerWord, Version: version, Stdout: os.Stdout, Stderr: os.Stderr}
	control := config.ControlIn(file, config.DefaultControl)
	if cfg, err := config.LoadClient(file); err != nil {
		s.Problem = err
	} else {
		control, s.Log = cfg.Main.Control, cfg.Main.LogFile
		s.Clear = func() error { return unmount(cfg.Mounts) }
	}
	s.PidFile = service.PidFile(control)
	code := s.Run(name)
	if code == 0 && (name == "start" || name == "restart") {
		sayMissing(os.Stderr, control)
	}
	return code
}

// dies is how long a process that was killed may take to let go of its mounts.
const dies = 3 * time.Second

// unmount takes away the mounts of a process that was killed, inner ones first. Those
// that somebody serves are another's: of an aysfs in the foreground, or one that was
// started when the config named another control socket.
func unmount(mounts []config.Mount) error {
	var paths []string
	for _, m := range mounts {
		paths = append(paths, m.Path)
	}
	slices.Sort(paths)
	var errs []error
	end := time.Now().Add(dies)
	for _, p := range slices.Backward(paths) {
		if alive(p, end) {
			errs = append(errs, fmt.Errorf("an aysfs in the foreground, or one that was started with another [main] control, serves %s: end its process", p))
			continue
		}
		errs = append(errs, fs.Clear(p))
	}
	return errors.Join(errs...)
}

// alive tells whether a mount at path still answers at the end.
func alive(path string, end time.Time) bool {
	for {
		state, err := fs.StateOf(path)
		if err != nil || state != fs.Alive {
			return false
		}
		if time.Now().After(end) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
}
