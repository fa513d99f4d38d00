// What the caller has and hasn't given back yet.
#pragma once

namespace fakecuda {

struct Driver;

// Into the process's page, where it can be read after a SIGKILL too. Called with the driver's lock,
// after every function.
void publish_live(const Driver& driver);
// At exit, where FAKECUDA_LEAKS=1 asks for it: one report for each kind of thing that is left.
void report_leaks();

}  // namespace fakecuda
