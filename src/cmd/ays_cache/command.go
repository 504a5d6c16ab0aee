package main

import (
	"os"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/service"
)

// command does what an init script asks for.
func command(name, file string) int {
	s := service.Service{Name: "ays_cache", Config: file, Stdout: os.Stdout, Stderr: os.Stderr}
	control := config.ControlIn(file, config.DefaultServerControl)
	if cfg, err := config.LoadServer(file); err != nil {
		s.Problem = err
	} else {
		control, s.Log = cfg.Main.Control, cfg.Main.LogFile
	}
	s.PidFile = service.PidFile(control)
	return s.Run(name)
}
