package cachedb

import (
	"bytes"
	"errors"
	"strings"

	"github.com/ledisdb/ledisdb/ledis"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
)

const (
	tablePrefix = "ays:"

	// headField is the field of a tree's head in redis; LedisHeadField the one in
	// ledis, which has no empty fields.
	headField      = ""
	LedisHeadField = "\x00"
)

// DomainOf is the domain whose blobs are in a hash; ok is false if it is another
// kind of hash.
func DomainOf(key []byte) (domain string, ok bool) {
	return strings.CutPrefix(string(key), ledisbolt.HashPrefix)
}

// dirField is the field of a directory's listing.
func dirField(dir string) string {
	field := "/" + dir
	if len(field) <= ledis.MaxHashFieldSize {
		return field
	}
	return "sha256:" + digest.Of([]byte(field)).String()
}

// Private tells whether a key is one that the cache keeps for itself: there are
// credentials in it, so nobody may read it from outside.
func Private(key []byte) bool { return bytes.HasPrefix(key, []byte(tablePrefix)) }

func tableKey(table string) string { return tablePrefix + table }

var errNoField = errors.New("a table's keys are 1 to 1,024 bytes")

// checkTableKey refuses what ledis would refuse, everywhere alike.
func checkTableKey(key string) error {
	if key == "" || len(key) > ledis.MaxHashFieldSize {
		return errNoField
	}
	return nil
}
