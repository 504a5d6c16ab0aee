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

func (s *socketFlags) path() (string, error) {
	if s.socket != "" {
		return s.socket, nil
	}
	cfg, err := config.LoadClient(s.config)
	if err != nil {
		return "", errors.Join(err, errors.New("name the client's socket with -socket, or its config with -config"))
	}
	return cfg.Main.Control, nil
}
