// What has been learned about the links from traffic: turns what senders saw into a LinkMatrix.
//
// A sender reports each of its peers after an operation (or the probe at the start): how many bytes
// were acknowledged over the time that it had something to send, and the rate that it was paced
// to. A link that kept up with its pacing can carry at least that much: its estimate grows a little
// (that is how spare capacity is found). One that fell short shows its capacity, and which limit
// it met follows from who else fell short: all of a sender's links - its up; all links into a
// receiver - its down; else the pair. Estimates move quickly down when several reports agree, are
// not moved by single outliers, and are the same function of the same reports in the same order.
// What was carried is believed; what more there may be is found by senders that pace above the
// plan (PaceGain), because a belief that is only hoped for moves shares, and costs time wherever
// it is wrong. The exception is a limit that carried all that it is believed to carry while others
// explain every flow that was held up: nothing says that it is so low, and pacing can't show more
// as long as those others are full. It is hoped to carry more, so that the next plan tries it.
//
// In steps, for the reports of one operation:
// 1. What every up, down and pair carried: the sum of its flows' rates.
// 2. A flow that fell short of its pacing (or was not paced) met a limit that was full. Whose? The
//    fewest and least surprising limits that explain all of them: one after the other the one that
//    explains the most flows for the least change of what was believed. On a full limit that is
//    shared fairly nobody has more than those who fell short, so a flow that has much less than
//    another one met its limit elsewhere.
// 3. A full limit is what it carried: at once if several flows say so or for the second time, else
//    part of the way.
// 4. A limit that is not full is at least what it carried.
// 5. What was not used for long is slowly forgotten, so that it is tried again some day.
// 6. A flow that did not fall short but whose bytes stood in a queue is explained like the others.
//    A limit that was used to what is believed and explains nothing, twice, is hoped to carry more,
//    up to what its other direction carried, and still more the next time. A hope that failed is
//    not tried again for twice as long, and never where paced flows have met the limit.
// 7. Flows of a probe that met a full line have lost something: it is found by filling its queue.
//    Where they lost nothing TCP may have stopped growing early (BBR does, when acknowledgements
//    wait behind a flood the other way). Such a limit is hoped to carry more at once.
//
// Pure; thread rule: one thread at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectives/wan/plan/link_matrix.h"

namespace atl::wan {

// Senders pace at the plan's rate times a PaceGain, which is at least that. More than 1, for two
// reasons: an estimate that is a little low costs nothing, and a link that could carry more shows
// it by keeping up. Not much more, because what is too much queues in the slowest router: 3% too
// much are 30 ms of queue a second, which a line with 100 ms of queue takes for three seconds
// before it drops; at 10% it drops after one.
inline constexpr double kPacingGain = 1.03;

struct LinkReport {
  int from = 0;
  int to = 0;
  double busy_seconds = 0;   // in which bytes waited to be sent; 0: idle
  double acked_bytes = 0;    // that reached the peer's kernel in that time, gaps or not
  double paced_rate = 0;     // bytes/s; 0: not paced
  double retransmitted = 0;  // share of the bytes that were sent again
  double rtt_seconds = 0;    // the smallest that was seen, 0: unknown
  double queue_seconds = 0;  // the typical RTT above the smallest
  bool reachable = true;
};

// How far above the plan a sender paces its link to one peer: a step more with every operation in
// which the link kept up, so that a line that has become three times as fast is found in six of
// them; kPacingGain again as soon as it fell short, and a step less if it did neither. Until it
// first falls short all that is known is a probe's word, so it begins higher, takes two steps at
// once, and, where a sender has one peer only, does not wait for the plan to follow what was
// carried. The shares stay as planned meanwhile, and links of one sender go by the least gain of
// them: if they share a full line, a larger one would take from the others what they need to end
// at the same time.
class PaceGain {
 public:
  double value() const;
  // The pace, bytes/s, of a link that the plan uses at that rate. `least`: the least gain of the
  // links that this sender uses in the operation, infinity if it is the only one.
  double Pace(double planned, double least) {
    held_back_ = least < value();
    return std::isinf(least) ? std::max(planned, carried_) * value()
                             : planned * std::min(least, value());
  }
  // The link's report of an operation; one that says nothing of its rate changes nothing.
  void Observe(const LinkReport& report);

 private:
  int step_ = 2;
  bool held_back_ = false;  // in this operation: keeping up says nothing
  bool met_limit_ = false;
  double carried_ = 0;  // by an operation in which it kept up, until it met a limit
};

// Whom everybody sends to in each round of a probe, a fraction of a second a round, not paced:
// first each member to one other at a time (up to eight rotations: what single pairs carry), then
// all to all (what lines carry). The reports of each round go into Observe() on their own.
// The last round alone will do, but then it takes some operations more until plans are good: who
// shares a full line with others does not show what its pair could carry.
std::vector<std::vector<std::pair<int, int>>> ProbeRounds(int members);

class LinkModel {
 public:
  explicit LinkModel(std::vector<std::string> names);
  // What is believed is pointed at from within.
  LinkModel(const LinkModel&) = delete;
  LinkModel& operator=(const LinkModel&) = delete;
  LinkModel(LinkModel&&) = default;
  LinkModel& operator=(LinkModel&&) = default;

  // Reports of one operation: at most one an ordered pair; those of some members may be missing.
  // Numbers that cannot be (not finite, below 0, members out of range) are left out.
  void Observe(const std::vector<LinkReport>& reports);
  // What is believed. Members and pairs of which nothing is known have no limits.
  const LinkMatrix& matrix() const { return matrix_; }
  // What plans are made from: lines that are as fast as each other but for what a measurement errs
  // have one rate, their mean, and so have pairs. A plan leans on every difference, and one that is
  // not there costs as much as one that is not known.
  LinkMatrix ForPlans() const;
  // Something has been learned about the lines of all members.
  bool complete() const;
  // Whether the names of all these members are known here, and the lines of all.
  bool Knows(const std::vector<std::string>& names) const;
  // Begins with what another model learned of members of the same names; it knows them all.
  void TakeOver(const LinkModel& former);

 private:
  // An up, a down or a pair.
  struct Limit {
    double* planned = nullptr;  // in matrix_: what is believed, or hoped
    double belief = std::numeric_limits<double>::infinity();  // nothing is known
    double proven = 0;                                        // what it carried not long ago
    int unused = 0;                                           // operations in a row
    bool doubted = false;  // fell short once, by the word of a single flow
    int open = 0;          // operations in a row in which it was used up and explained nothing
    bool met = false;      // full, by the word of flows that were paced: not hoped to be more
    bool weak = false;     // only flows that were not paced and lost nothing speak for it
    int patience = 1;      // so many of them are not enough to hope
  };
  struct Flow;
  class Round;

  int members() const { return matrix_.members(); }
  int UpOf(int member) const { return member; }
  int DownOf(int member) const { return members() + member; }
  int PairOf(int from, int to) const { return 2 * members() + from * members() + to; }
  int OtherWay(int limit) const;
  void ObserveReach(const std::vector<LinkReport>& reports);
  void ObserveDelays(const std::vector<LinkReport>& reports);

  LinkMatrix matrix_;
  std::vector<Limit> limits_;  // by UpOf, DownOf, PairOf
  std::vector<bool> seen_;     // by member: it has sent and received
};

}  // namespace atl::wan
