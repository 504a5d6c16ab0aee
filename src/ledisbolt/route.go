package ledisbolt

import (
	"bytes"
	"encoding/binary"

	"github.com/ledisdb/ledisdb/ledis"

	"github.com/aysfs/aysfs/src/object"
)

// HashPrefix is what the name of a hash that is a dedupe domain starts with.
const HashPrefix = "files:"

// How ledis writes keys of database 0, which is the only one that is routed:
//
//	a hash's field   00 02 <length of key, 2 bytes> <key> ':' <field>
//	a hash's size    00 03 <key>
const (
	database0  = 0
	fieldStart = ':'
	fieldStop  = fieldStart + 1
)

// blobPrefix is what every key of a domain's blobs starts with.
func blobPrefix(domain string) []byte {
	n := len(HashPrefix) + len(domain)
	p := make([]byte, 0, 4+n+1)
	p = append(p, database0, ledis.HashType)
	p = binary.BigEndian.AppendUint16(p, uint16(n))
	p = append(p, HashPrefix...)
	p = append(p, domain...)
	return append(p, fieldStart)
}

// blobEnd is the first key after those of a domain's blobs.
func blobEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1] = fieldStop
	return end
}

// sizeKey is where ledis looks for the number of a domain's blobs.
func sizeKey(domain string) []byte {
	return append([]byte{database0, ledis.HSizeType}, HashPrefix+domain...)
}

// splitBlob takes the key of a blob apart. The domain's name is not validated.
func splitBlob(key []byte) (domain, field []byte, ok bool) {
	if len(key) < 4 || key[0] != database0 || key[1] != ledis.HashType {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(key[2:]))
	rest := key[4:]
	if len(rest) < n+2 || rest[n] != fieldStart || !bytes.HasPrefix(rest[:n], []byte(HashPrefix)) {
		return nil, nil, false
	}
	return rest[len(HashPrefix):n], rest[n+1:], true
}

// splitSize returns the domain whose number of blobs key stands for. Its name
// is not validated.
func splitSize(key []byte) (domain []byte, ok bool) {
	if len(key) < 2 || key[0] != database0 || key[1] != ledis.HSizeType {
		return nil, false
	}
	return bytes.CutPrefix(key[2:], []byte(HashPrefix))
}

// isDomain tells whether name can be a dedupe domain. A hash files:<name> of
// any other name is kept in main.bolt like everything else.
func isDomain(name string) bool { return name != "" && object.ValidateDomain(name) == nil }
