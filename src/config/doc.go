// Package config turns a TOML file into checked values, or into messages that
// name file, line and key and say what to do.
//
// It works in three steps. The TOML library makes values of the text, and a
// scanner of our own finds on which line each of them is. The schema, a plain
// list of keys and their kinds, is held against both: unknown keys and wrong
// types are found there. What is left is read into Go values, each with its
// own limits. Problems are collected on the way, so that one look at the
// messages is enough to put a file right.
//
// Keys are matched exactly: Name is not name, but is told that it is near.
//
// What Load and Parse return must not be changed: it is shared by all who
// hold it.
package config
