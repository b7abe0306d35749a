// What has been learned about the links from traffic: turns what senders saw into a LinkMatrix.
//
// A sender reports each of its peers after an operation (or the probe at the start): how many bytes
// were acknowledged over the time that it had something to send, and the rate that it was paced
// to. A link that kept up with its pacing can carry at least that much: its estimate grows a little
// (that is how spare capacity is found). One that fell short shows its capacity, and which limit
// it met follows from who else fell short: all of a sender's links - its up; all links into a
// receiver - its down; else the pair. Estimates move quickly down when several reports agree, are
// not moved by single outliers, and are the same function of the same reports in the same order.
//
// Pure; thread rule: one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "collectives/wan/plan/link_matrix.h"

namespace atl::wan {

struct LinkReport {
  int from = 0;
  int to = 0;
  double busy_seconds = 0;   // in which bytes waited to be sent; 0: idle
  double acked_bytes = 0;    // in that time
  double paced_rate = 0;     // bytes/s; 0: not paced
  double retransmitted = 0;  // share of the segments that were sent again
  double rtt_seconds = 0;    // the smallest that was seen, 0: unknown
  double queue_seconds = 0;  // the typical RTT above the smallest
  bool reachable = true;
};

class LinkModel {
 public:
  explicit LinkModel(std::vector<std::string> names);

  // Reports of one operation: at most one an ordered pair; those of some members may be missing.
  void Observe(const std::vector<LinkReport>& reports);
  // Current belief. Members and pairs of which nothing is known have no limits.
  const LinkMatrix& matrix() const { return matrix_; }
  // Something has been learned about the lines of all members.
  bool complete() const;

 private:
  LinkMatrix matrix_;
};

}  // namespace atl::wan
