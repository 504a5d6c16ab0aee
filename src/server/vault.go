package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// vault has the one key that never leaves this machine. With it credentials are
// sealed before they go into the data, which others may read, and tokens are
// made.
type vault struct {
	aead cipher.AEAD
	mac  []byte
}

const (
	keyFile = "key"
	keySize = 32
)

// openVault reads the key in dir, or makes one.
func openVault(dir string) (*vault, error) {
	path := filepath.Join(dir, keyFile)
	for _, p := range []string{dir, path} {
		if err := checkOwn(p); err != nil {
			return nil, err
		}
	}
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cache's key: %w", err)
	}
	if len(key) != keySize {
		return nil, fmt.Errorf("read the cache's key: %s has %d bytes, want %d: remove it to have a new one made; stores' credentials are then told anew", path, len(key), keySize)
	}
	block, err := aes.NewCipher(derive(key, "seal"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &vault{aead: aead, mac: derive(key, "mac")}, nil
}

// checkOwn says what is wrong with a file, or a directory, that others may change, or
// a key that they may read. There need be none.
func checkOwn(path string) error {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", path, err)
	}
	forbidden := uint32(0o002)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		forbidden = 0o007
	}
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() || uint32(st.Mode)&forbidden != 0 {
		return fmt.Errorf("%s must be of the user that the cache runs as, with nothing in its mode (%04o) for others: the key to stores' credentials is there; chown and chmod it, or set [main] data to another directory", path, st.Mode&0o7777)
	}
	return nil
}

// makeKey writes a new key, durable when it returns.
func makeKey(path string) ([]byte, error) {
	key := make([]byte, keySize)
	rand.Read(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), keyFile+".")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	return key, os.Rename(f.Name(), path)
}

func derive(key []byte, use string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(use))
	return m.Sum(nil)
}

// seal hides plain; it can be opened only for what it is about.
func (v *vault) seal(plain []byte, about string) []byte {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(plain)+v.aead.Overhead())
	rand.Read(nonce)
	return v.aead.Seal(nonce, nonce, plain, []byte(about))
}

func (v *vault) open(sealed []byte, about string) ([]byte, error) {
	n := v.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("open what was sealed: too short")
	}
	plain, err := v.aead.Open(nil, sealed[:n], sealed[n:], []byte(about))
	if err != nil {
		return nil, fmt.Errorf("open what was sealed: %w", err)
	}
	return plain, nil
}

// sum stands for texts: nobody without the key can make it, or find them by it.
func (v *vault) sum(texts ...string) [sha256.Size]byte {
	m := hmac.New(sha256.New, v.mac)
	var n [8]byte
	for _, t := range texts {
		binary.BigEndian.PutUint64(n[:], uint64(len(t)))
		m.Write(n[:])
		m.Write([]byte(t))
	}
	return [sha256.Size]byte(m.Sum(nil))
}
