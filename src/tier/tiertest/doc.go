// Package tiertest has the one suite that every tier.Source passes, and the
// doubles that tests of what is built on sources use: a source and a cache in
// memory, a source that goes wrong as it is told, and a web server that does
// the same on a real socket.
package tiertest
