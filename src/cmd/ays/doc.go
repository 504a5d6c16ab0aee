// Command ays publishes trees to stores and looks after stores (publish,
// verify, ls, keygen), and brings home what was changed on running machines
// (debug). "ays help" lists its commands, "ays COMMAND -h" tells the
// flags of one.
//
// It exits with 0 when all went well, 1 when a check found something wrong, and
// 2 when it could not do what it was asked to.
package main
