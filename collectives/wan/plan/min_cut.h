// The smallest capacity whose removal separates one node from another, and what stays with the
// first; and the partition of a graph whose parts are joined the worst.
//
// Pure; any thread.
#pragma once

#include <vector>

namespace atl::wan {

struct Cut {
  double capacity = 0;
  std::vector<bool> near;  // by node: on the side of `from`
};
// `capacity` by from * n + to, finite. Dinic 1970 on the dense graph: at most n^4 steps, in
// practice a few n^2.
Cut MinCut(std::vector<double> capacity, int n, int from, int to);

struct Partition {
  double strength = 0;    // capacity between the parts over their number less one
  std::vector<int> part;  // by node, parts count from 0
  int parts = 0;
};
// Of all partitions into two parts or more the one of the least strength (Tutte 1961, Nash-Williams
// 1961: as many units of spanning trees can be packed). `capacity` is symmetric, may be infinite
// (such nodes are never parted); strength is infinite where all nodes hang together so.
// 1. Nodes that are joined without limit become one.
// 2. Dinkelbach 1967: for a guess `price`, find the partition of the least capacity minus price a
//    part; its strength is the next guess, until it does not fall any more.
// 3. That partition: greedily node after node, with a cut each (Baiou, Barahona & Mahjoub 2000).
Partition WeakestPartition(const std::vector<double>& capacity, int n);

}  // namespace atl::wan
