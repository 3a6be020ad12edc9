"""The policy.toml that ``securefd init`` writes: rules to start from, and every other one as a comment."""

POLICY_TEMPLATE = """\
# A policy. `securefd check RUN --policy policy.toml` holds a run and its audit against it: each rule passes,
# fails, or is inconclusive where the evidence is missing. The worst rule is the verdict, and a violated claim
# fails whatever the policy says. A rule that securefd doesn't know is refused, never ignored.
# A line that starts with # shows a rule that isn't in force.

name = "clinic"                # what reports call this policy
description = ""               # what it is for, and whose it is

[[privacy]]                    # of private records: what must be proven, and to whom; as many as you like
observers = ["server", "peer", "release"]     # server | peer | release | keyholder | coalition
unit = "record"                # record | client
relation = "add-or-remove"     # add-or-remove | replace-one; a claim in the other one is inconclusive
epsilon = 8.0                  # the largest that is allowed
delta = 1e-5                   # the largest that is allowed; below 1 / records of a client

[[claims]]                     # something that must be promised, with or without figures
observers = ["server"]
subject = "answers"            # records | answers: what single clients sent
kinds = ["cryptographic"]      # ways that count; default ["proven", "cryptographic"]

[federation]
sealing = ["masked", "masked+homomorphic"]    # kinds that are allowed; plain and homomorphic are the others
clients = 3                    # the least number of clients
threshold = 3                  # the least number of clients that an opened sum may cover

[[attacks]]                    # the most that any attack on membership may achieve
observers = ["server", "peer", "release", "label-only"]
subjects = ["the recipe"]      # the default: federations like this one; or "this run", its own records
fpr = 0.01                     # false-positive rate; 0.1, 0.01 and 0.001 are measured
tpr = 0.05                     # the largest true-positive rate, by the upper end of its 95% interval

[[audits]]                     # audits that must have been made, none of it skipped, with passed controls
observers = ["server", "peer", "release", "label-only"]
subjects = ["the recipe"]      # the default; as above
power = 2.0                    # the least epsilon that an audit must have been able to certify
# claims_tested = true         # it must have been able to contradict the claim (default false)

[accuracy]                     # by the lower end of its 95% interval
student = 0.8                  # the least that is allowed
# clients_together = 0.8       # the same for the mean over clients, after the last round

[dependencies]                 # the oldest version that is allowed; python and securefd count as packages
torch = "2.6"
cryptography = "44"
"""
