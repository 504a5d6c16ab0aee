package main

import (
	"errors"
	"os"
	"slices"

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

// unmount takes away the mounts of a process that was killed, inner ones first.
func unmount(mounts []config.Mount) error {
	var paths []string
	for _, m := range mounts {
		paths = append(paths, m.Path)
	}
	slices.Sort(paths)
	var errs []error
	for _, p := range slices.Backward(paths) {
		errs = append(errs, fs.Clear(p))
	}
	return errors.Join(errs...)
}
