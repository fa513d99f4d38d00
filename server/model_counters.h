// What is seen of a model from outside (transport/counters.h). Counts on when it is loaded again.
#pragma once

#include <tensorferry/transport/counters.h>

#include <string_view>

namespace tensorferry::server {

struct ModelCounters {
  explicit ModelCounters(std::string_view model)
      : succeeded(of(model, "success")),
        failed(of(model, "failure")),
        cancelled(of(model, "cancelled")),
        batches(Counters::of_process().add("batches", {{"model", model}})),
        executions(Counters::of_process().add("executions", {{"model", model}})) {}

  Counter succeeded, failed, cancelled;  // requests that ended, by outcome
  Counter batches;                       // that were sent to a stub
  Counter executions;                    // that a stub has ended

 private:
  static Counter of(std::string_view model, std::string_view outcome) {
    return Counters::of_process().add("requests", {{"model", model}, {"outcome", outcome}});
  }
};

}  // namespace tensorferry::server
