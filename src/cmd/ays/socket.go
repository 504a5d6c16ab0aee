package main

import (
	"errors"
	"flag"

	"github.com/aysfs/aysfs/src/config"
)

// socketFlags say where the client on this machine answers.
type socketFlags struct{ socket, config string }

func (s *socketFlags) add(fs *flag.FlagSet) {
	fs.StringVar(&s.socket, "socket", "", "the client's control `socket` (default: as its config says)")
	fs.StringVar(&s.config, "config", defaultConfig, "the client's config `file`, for where its socket is")
}

// path is where the client answers. The problem is what else there is to know if nobody
// does: a config that is no good any more says nothing of the client that runs.
func (s *socketFlags) path() (path string, problem error) {
	if s.socket != "" {
		return s.socket, nil
	}
	cfg, err := config.LoadClient(s.config)
	if err != nil {
		problem = errors.Join(err, errors.New("name the client's socket with -socket, or its config with -config"))
		return config.ControlIn(s.config, config.DefaultControl), problem
	}
	return cfg.Main.Control, nil
}
