// Forms the replica set and makes the user of Pulsegate. It may run again.
const fs = require("fs");
const secret = (name) => fs.readFileSync("/run/secrets/" + name, "utf8").trim();

const connect = () => {
  try {
    return Mongo("mongodb://root:" + encodeURIComponent(secret("mongodb-root-password")) +
      "@127.0.0.1/admin?directConnection=true");
  } catch (e) {
    return Mongo("mongodb://127.0.0.1/admin?directConnection=true");
  }
};

let admin = connect().getDB("admin");
try {
  admin.runCommand({replSetInitiate: {_id: "rs0", members: [1, 2, 3].map((n) => (
    {_id: n, host: "mongodb-" + n + ":27017", priority: n === 1 ? 2 : 1}))}});
} catch (e) {
  if (e.codeName !== "AlreadyInitialized" && e.codeName !== "Unauthorized") throw e;
}
while (!admin.runCommand({hello: 1}).isWritablePrimary) sleep(500);

const ensure = (user, pwd, roles) => {
  try {
    admin.createUser({user, pwd, roles});
  } catch (e) {
    if (!/already exists|requires authentication|not authorized/i.test(e.message)) throw e;
  }
};
ensure("root", secret("mongodb-root-password"), [{role: "root", db: "admin"}]);
admin = connect().getDB("admin");
// hello and replSetGetStatus need no role; clusterMonitor lets the server see the set.
ensure("pulsegate", secret("mongodb-password"),
  [{role: "readWrite", db: "pulsegate"}, {role: "clusterMonitor", db: "admin"}]);
