"""The federation.toml that ``securefd init`` writes: every key of a configuration, with its default."""

TEMPLATE = """\
# A federation. `securefd plan federation.toml` says what it promises and costs, and trains nothing;
# `securefd run federation.toml -o RUN` runs it. A line that starts with # holds a default.

name = "clinic"                # what the report calls this federation
seed = 7                       # splits, initial weights, order: never noise or keys

[data]
source = "digits"              # digits | breast-cancer | idx | npz | csv | parquet | images
#                              # or "package.module:function"
# path = ""                    # for the file kinds; idx: a folder of IDX files, gzipped or not
#                              # npz: x (n, ...) float, y (n,) int; images: a folder for each class
# public = 500                 # inputs everyone may see: a count split off with labels dropped, or a path
# test = 300                   # a count, or a path (idx: empty for its own test files, the default there)
partition = { kind = "dirichlet", alpha = 0.5 }
#                              # iid (default) | dirichlet, alpha | shards, classes | quantity, alpha | owner
# label = ""                   # csv, parquet: the column of labels
# owner = ""                   # csv, parquet, with partition kind owner: the column of owners
#                              # and group = "sex": a column that is no input, to tell accuracy by its groups
# bounds = {}                  # csv, parquet: { age = [0, 120] } to scale by; else by public data

[[clients]]                    # one table for each kind of client
count = 2                      # default 1
model = "cnn"                  # logistic | mlp | cnn | resnet | forest | boosting | "package.module:factory"
#                              # or head: linear, on features that are learnt from the public inputs

[[clients]]
count = 2
model = "mlp"

[[clients]]
model = "logistic"

[method]
name = "balanced"              # fedmd | dsfl | dsfl-power | feddf | cfd | fedct | balanced | fd
#                              # against clients that lie: median | trimmed | geometric | cronus | expguard
# rounds = 5
# queries = 500                # public inputs a round; at most the public set
# selection = "random"         # or representative: in each round the same ones, which stand for many others
# local_steps = 100            # gradient steps on private records a round
# digest_steps = 100           # gradient steps on the consensus a round
# batch_size = 64
# learning_rate = 0.001
# temperature = 0.25           # balanced (default 0.25), dsfl (0.1), feddf, cfd (1)
# count_bound = 1000           # balanced: the public cap on a client's records of a class
# power = 2.0                  # dsfl-power
# cache_rounds = 50            # dsfl-power: rounds that a soft label stays cached
# bits = 1                     # cfd: 1 to 8 bits for a probability
# logit_bound = 10.0           # fedmd, feddf, fd: centred logits are clipped to it
# distance_weight = 0.1        # fd
# trim = 0.34                  # trimmed: the share of answers that is dropped at each end
# eta = 2.0                    # expguard: how fast a client that strays loses weight

[sealing]
kind = "masked"                # plain | masked | homomorphic | masked+homomorphic
#                              # all but plain show the server only the sum
#                              # with a method against liars, groups = 3: a sum in each of so many groups
threshold = 4                  # clients without whom no sum opens; all, unless given
colluders = 1                  # clients that may work with the server; must be < 2 * threshold - clients
# honest_minimum = 2           # honest clients that every opened sum covers; 9 in 10, unless given
# degree = 4                   # masked: holders that each client chooses; enough, unless given
# bits = 8                     # of each value that is added up; as many as fit, unless given

# [privacy]                    # without it nothing is promised about what the sum and the student reveal
# unit = "record"              # record | client
# route = "dpsgd"              # none | dpsgd (each client trains with noise; trees can't)
#                              # head (model head in all clients, from one noised sum: for few records)
#                              # pate (a client's own teachers vote: for many records); with it, teachers = 20
#                              # and labels = 500: public inputs that they vote on; all, unless given
#                              # for unit client distributed | local | rr | central: noise on each answer
#                              # votes: a trusted server releases top classes where enough clients agree;
#                              # with it, threshold = 2: how many; two in five, unless given; and
#                              # threshold_noise = 1.5: noise on how many agree, by that on each count
# relation = "add-or-remove"   # or replace-one; no default
# epsilon = 8.0                # over all rounds
#                              # or, instead of epsilon, noise = 1.1: a noise multiplier
# mechanism = "discrete-gaussian"   # of noise on answers; or skellam
# delta = 1e-5                 # below 1 / records of a client, or 1 / clients
#                              # nfdp, for comparison only, promises nothing: instead of all these it takes
#                              # sample = 60: records that each client trains on, without any noise
# clip = 1.0                   # L2 norm of one record's gradient
# learning_rate = 1.0          # of DP-SGD's steps
# ledger = ""                  # given: spending adds up across runs on the same data
#                              # with it, budget = 20.0: what all runs together may come to; else epsilon
# witness = ""                 # folder of whoever countersigns ledgers across runs; else this run's server

[student]
# model = "mlp"                # the network that is distilled and released; no tree
#                              # or encoder: it starts from features learnt from the public inputs (images)
# steps = 500
# self_training = 0            # rounds that they are cut into, if it labels all public inputs itself (try 4)

[audit]
# observers = ["server", "peer", "release", "label-only"]
# shadows = 32                 # federations that are re-run to calibrate the attacks
# candidates = 2000            # records whose membership coins decide in these, drawn at random
#                              # canaries = { count = 200, kind = "mislabelled" }: records that are made to
#                              # test this run, of which a coin puts each into its client's training data;
#                              # or kind noise, or user with path = "canaries.npz"

[performance]                  # changes nothing that is reported except times
# device = "cpu"               # cpu | cuda | cuda:N | mps
# workers = 2
"""
